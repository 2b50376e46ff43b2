"""Write the Quick Action from its script: `python integrations/macos/bundle.py`."""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAME = "Upload to Skafos"
CONTENTS = HERE / f"{NAME}.workflow" / "Contents"
ACTION = "/System/Library/Automator/Run Shell Script.action"
# What Automator calls "as arguments", beside "to stdin".
AS_ARGUMENTS = 1
# They tell the parts of one workflow from each other, nothing more.
IDS = {
    "UUID": "0D6C3A52-7C0E-4E0B-9B57-5B9C1D7F6A01",
    "InputUUID": "0D6C3A52-7C0E-4E0B-9B57-5B9C1D7F6A02",
    "OutputUUID": "0D6C3A52-7C0E-4E0B-9B57-5B9C1D7F6A03",
}


def info() -> dict[str, Any]:
    """Return what tells Finder that there is a service: its name in the menu, and that it takes files and folders."""
    service = {
        "NSMenuItem": {"default": NAME},
        "NSMessage": "runWorkflowAsService",
        "NSRequiredContext": {"NSApplicationIdentifier": "com.apple.finder"},
        "NSSendFileTypes": ["public.item"],
        "NSIconName": "NSActionTemplate",
        "NSBackgroundColorName": "background",
    }
    return {"NSServices": [service]}


def document(script: str) -> dict[str, Any]:
    """Return the workflow: one step, which runs the script with the selected files as arguments."""
    parameters = {
        "COMMAND_STRING": script,
        "CheckedForUserDefaultShell": True,
        "inputMethod": AS_ARGUMENTS,
        "shell": "/bin/zsh",
        "source": "",
    }
    texts = {"Container": "List", "Types": ["com.apple.cocoa.string"]}
    step = {
        "AMAccepts": texts | {"Optional": True},
        "AMActionVersion": "2.0.3",
        "AMApplication": ["Automator"],
        "AMParameterProperties": {name: {} for name in parameters},
        "AMProvides": texts,
        "ActionBundlePath": ACTION,
        "ActionName": "Run Shell Script",
        "ActionParameters": parameters,
        "BundleIdentifier": "com.apple.RunShellScript",
        "CFBundleVersion": "2.0.3",
        "CanShowSelectedItemsWhenRun": False,
        "CanShowWhenRun": True,
        "Category": ["AMCategoryUtilities"],
        "Class Name": "RunShellScriptAction",
        "Keywords": ["Shell", "Script", "Command", "Run", "Unix"],
        "UnlocalizedApplications": ["Automator"],
        "arguments": {},
        "isViewVisible": 1,
        "location": "309.000000:253.000000",
        "nibPath": f"{ACTION}/Contents/Resources/Base.lproj/main.nib",
        **IDS,
    }
    about = {
        "applicationBundleIDsByPath": {},
        "applicationPaths": [],
        "inputTypeIdentifier": "com.apple.Automator.fileSystemObject",
        "outputTypeIdentifier": "com.apple.Automator.nothing",
        "presentationMode": 15,
        "processesInput": 0,
        "serviceApplicationBundleID": "com.apple.finder",
        "serviceApplicationPath": "/System/Library/CoreServices/Finder.app",
        "serviceInputTypeIdentifier": "com.apple.Automator.fileSystemObject",
        "serviceOutputTypeIdentifier": "com.apple.Automator.nothing",
        "serviceProcessesInput": 0,
        "systemImageName": "NSActionTemplate",
        "useAutomaticInputType": 0,
        "workflowTypeIdentifier": "com.apple.Automator.servicesMenu",
    }
    return {
        "AMApplicationBuild": "521",
        "AMApplicationVersion": "2.10",
        "AMDocumentVersion": "2",
        "actions": [{"action": step, "isViewVisible": 1}],
        "connectors": {},
        "workflowMetaData": about,
    }


def main() -> None:
    """Write both files of the bundle."""
    CONTENTS.mkdir(parents=True, exist_ok=True)
    (CONTENTS / "Info.plist").write_bytes(plistlib.dumps(info()))
    (CONTENTS / "document.wflow").write_bytes(plistlib.dumps(document((HERE / "upload.sh").read_text())))


if __name__ == "__main__":
    main()
