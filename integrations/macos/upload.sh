# Uploads the files it is given to Skafos, as one new version, and shows a notification of what came of it.
# Runs in zsh and bash: from Finder as a Quick Action, from Shortcuts, or by hand. Settings are in the file below.

settings="${SKAFOS_SETTINGS:-$HOME/.config/skafos/upload.sh}"

# Texts reach AppleScript as arguments, never as a part of its program.
notify() {
  osascript -e 'on run argv' -e 'display notification (item 2 of argv) with title (item 1 of argv)' -e 'end run' \
    "$1" "$2" >/dev/null
}

fail() {
  printf '%s\n' "$1" >&2
  notify 'Skafos: not uploaded' "$1"
  exit 1
}

[ -f "$settings" ] || fail "There is no file of settings at $settings."
. "$settings"

# The keychain keeps the token, unless the settings have one.
if [ -z "$SKAFOS_API_TOKEN" ]; then
  SKAFOS_API_TOKEN="$(security find-generic-password -s skafos -w 2>/dev/null)" ||
    fail 'The keychain has no token named skafos.'
fi
export SKAFOS_URL SKAFOS_API_TOKEN SKAFOS_ORG_NAME SKAFOS_APP_NAME SKAFOS_MODEL_NAME

[ $# -gt 0 ] || fail 'No file is selected.'

# A last line of the command's is its result, or its error.
if [ -n "$SKAFOS_ENVIRONMENT" ]; then
  said="$("${SKAFOS_COMMAND:-skafos}" upload --deploy "$SKAFOS_ENVIRONMENT" -- "$@" 2>&1)"
else
  said="$("${SKAFOS_COMMAND:-skafos}" upload -- "$@" 2>&1)"
fi || fail "$(printf '%s\n' "$said" | tail -n 1)"

printf '%s\n' "$said"
notify 'Skafos: uploaded' "$said"
