"""Typed clients for the management API, synchronous and asynchronous.

Each operation is described once, in `skafos.operations`, `skafos.figuring`, `skafos.uploading` and `skafos.fetching`.
A client turns the description into a method; the two differ in how a call travels, and in nothing else::

    with Client("http://127.0.0.1:8800", token) as client:
        client.deploy("acme", "Camera", "vision", version=3, environment="prod", percent=10)

    async with AsyncClient("http://127.0.0.1:8800", token) as client:
        await client.deploy("acme", "Camera", "vision", version=3, environment="prod", percent=10)
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx

from skafos import fetching, figuring, operations, pushing, uploading
from skafos.calls import MAX_ANSWER_BYTES, Answer, Call, FileSlice, Pause, Steps
from skafos.configuration import check_address
from skafos.exceptions import InvalidAnswerError, UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

API_PREFIX = "/v2"
CONNECT_TIMEOUT_SECONDS = 10.0
_NOTHING = Answer(0)


def _sync(operation: Callable[P, Steps[T]]) -> Callable[Concatenate[Client, P], T]:
    """Return the operation as a method of `Client`."""

    @functools.wraps(operation)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(operation(*args, **kwargs))

    return method


def _async(operation: Callable[P, Steps[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """Return the operation as a method of `AsyncClient`."""

    @functools.wraps(operation)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return self.run(operation(*args, **kwargs))

    return method


class _Wire:
    """What both clients know: where the API is, and how a call becomes a request."""

    def __init__(self, url: str, token: str) -> None:
        self._url = check_address(url, "The address of Skafos")
        self._token = token

    def _address(self, call: Call) -> str:
        if call.url.startswith(("http://", "https://")):
            return call.url
        return self._url + (call.url if call.url.startswith(fetching.DOWNLOAD_PREFIX) else API_PREFIX + call.url)

    def _headers(self, call: Call) -> dict[str, str]:
        # A hash is of the bytes as they are, so none may be compressed on the way.
        own = {"accept-encoding": "identity"} | ({"x-api-token": self._token} if call.with_token else {})
        return own | dict(call.headers)

    @staticmethod
    def _timeout(call: Call) -> httpx.Timeout:
        return httpx.Timeout(call.timeout_seconds, connect=min(CONNECT_TIMEOUT_SECONDS, call.timeout_seconds))

    def _unreachable(self, call: Call, error: httpx.TransportError) -> UnavailableError:
        # A presigned URL carries a secret in its query, so only the host is named.
        address = httpx.URL(self._address(call))
        reason = "it did not answer in time" if isinstance(error, httpx.TimeoutException) else _reason(error)
        return UnavailableError(f"Cannot reach {address.scheme}://{address.netloc.decode('ascii')}: {reason}.")


def _reason(error: httpx.TransportError) -> str:
    return (str(error) or type(error).__name__).rstrip(".").lower()


def _headers_of(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _append(body: bytearray, chunk: bytes) -> None:
    body += chunk
    if len(body) > MAX_ANSWER_BYTES:
        raise InvalidAnswerError(f"The server's answer has more than {MAX_ANSWER_BYTES} bytes.")


class Client(_Wire):
    """Synchronous client of the management API. Thread-safe; close it, or use it in a ``with``.

    Args:
        url: the control plane's address, without ``/v2``.
        token: an API token.
        http: an `httpx.Client` to use and leave open; default one of its own.
    """

    def __init__(self, url: str, token: str, http: httpx.Client | None = None) -> None:
        super().__init__(url, token)
        self._owned = http is None
        self._http = http or httpx.Client()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._owned:
            self._http.close()

    def run(self, steps: Steps[T]) -> T:
        """Carry out an operation."""
        try:
            wanted = next(steps)
            while True:
                try:
                    answer = self._do(wanted)
                except UnavailableError as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # the generator's return type is T

    def _do(self, wanted: Call | Pause) -> Answer:
        if isinstance(wanted, Pause):
            time.sleep(wanted.seconds)
            return _NOTHING
        try:
            return self._send(wanted)
        except httpx.TransportError as error:
            raise self._unreachable(wanted, error) from None

    def _send(self, call: Call) -> Answer:
        with self._http.stream(
            call.method,
            self._address(call),
            params=dict(call.query) or None,
            headers=self._headers(call),
            json=call.json,
            content=call.file.chunks() if call.file else None,
            timeout=self._timeout(call),
        ) as response:
            return self._receive(call, response)

    @staticmethod
    def _receive(call: Call, response: httpx.Response) -> Answer:
        headers = _headers_of(response)
        body = bytearray()
        if call.sink is not None and response.is_success:
            call.sink.begin(response.status_code, headers)
            try:
                for chunk in response.iter_raw():
                    call.sink.write(chunk)
            finally:
                call.sink.end()
        else:
            for chunk in response.iter_bytes():
                _append(body, chunk)
        return Answer(response.status_code, headers, bytes(body))

    openapi = _sync(operations.openapi)
    me = _sync(operations.me)
    list_organizations = _sync(operations.list_organizations)
    create_organization = _sync(operations.create_organization)
    get_organization = _sync(operations.get_organization)
    rename_organization = _sync(operations.rename_organization)
    delete_organization = _sync(operations.delete_organization)
    list_members = _sync(operations.list_members)
    add_member = _sync(operations.add_member)
    change_member = _sync(operations.change_member)
    remove_member = _sync(operations.remove_member)
    list_invitations = _sync(operations.list_invitations)
    invite = _sync(operations.invite)
    take_back_invitation = _sync(operations.take_back_invitation)
    change_password = _sync(operations.change_password)
    list_sessions = _sync(operations.list_sessions)
    end_session = _sync(operations.end_session)
    end_sessions = _sync(operations.end_sessions)
    list_identities = _sync(operations.list_identities)
    unlink_identity = _sync(operations.unlink_identity)
    list_audit = _sync(operations.list_audit)
    export_audit = _sync(operations.export_audit)
    list_edges = _sync(operations.list_edges)
    erase_device = _sync(operations.erase_device)
    erase_organization = _sync(operations.erase_organization)
    get_erasure = _sync(operations.get_erasure)
    list_tokens = _sync(operations.list_tokens)
    create_token = _sync(operations.create_token)
    revoke_token = _sync(operations.revoke_token)
    list_apps = _sync(operations.list_apps)
    create_app = _sync(operations.create_app)
    get_app = _sync(operations.get_app)
    update_app = _sync(operations.update_app)
    delete_app = _sync(operations.delete_app)
    list_models = _sync(operations.list_models)
    create_model = _sync(operations.create_model)
    get_model = _sync(operations.get_model)
    rename_model = _sync(operations.rename_model)
    delete_model = _sync(operations.delete_model)
    list_environments = _sync(operations.list_environments)
    create_environment = _sync(operations.create_environment)
    get_environment = _sync(operations.get_environment)
    rename_environment = _sync(operations.rename_environment)
    delete_environment = _sync(operations.delete_environment)
    list_environment_groups = _sync(operations.list_environment_groups)
    list_push_credentials = _sync(pushing.list_push_credentials)
    set_push_credential = _sync(pushing.set_push_credential)
    delete_push_credential = _sync(pushing.delete_push_credential)
    send_push = _sync(pushing.send_push)
    list_pushes = _sync(pushing.list_pushes)
    get_push = _sync(pushing.get_push)
    list_pushed_devices = _sync(pushing.list_pushed_devices)
    push_effect = _sync(pushing.push_effect)
    pause_push = _sync(pushing.pause_push)
    resume_push = _sync(pushing.resume_push)
    cancel_push = _sync(pushing.cancel_push)
    list_keys = _sync(operations.list_keys)
    add_key = _sync(operations.add_key)
    revoke_key = _sync(operations.revoke_key)
    rotate_root = _sync(operations.rotate_root)
    rotate_online_key = _sync(operations.rotate_online_key)
    list_devices = _sync(operations.list_devices)
    list_versions = _sync(operations.list_versions)
    get_version = _sync(operations.get_version)
    describe_version = _sync(operations.describe_version)
    rename_version = _sync(operations.rename_version)
    delete_version = _sync(operations.delete_version)
    upload_version = _sync(uploading.upload_version)
    fetch_version = _sync(fetching.fetch_version)
    deploy = _sync(operations.deploy)
    roll_back = _sync(operations.roll_back)
    list_deployments = _sync(operations.list_deployments)
    list_patches = _sync(operations.list_patches)
    adoption = _sync(operations.adoption)
    adoption_curve = _sync(figuring.adoption_curve)
    hourly_adoption = _sync(figuring.hourly_adoption)
    active_devices = _sync(figuring.active_devices)
    installations = _sync(figuring.installations)
    version_mix = _sync(figuring.version_mix)
    funnel = _sync(figuring.funnel)
    failure_rates = _sync(figuring.failure_rates)
    download_times = _sync(figuring.download_times)
    bytes_sent = _sync(figuring.bytes_sent)
    time_to_adopt = _sync(figuring.time_to_adopt)
    stuck_devices = _sync(figuring.stuck_devices)
    sql = _sync(operations.sql)


class AsyncClient(_Wire):
    """Asynchronous client of the management API. Close it, or use it in an ``async with``.

    Args:
        url: the control plane's address, without ``/v2``.
        token: an API token.
        http: an `httpx.AsyncClient` to use and leave open; default one of its own.
    """

    def __init__(self, url: str, token: str, http: httpx.AsyncClient | None = None) -> None:
        super().__init__(url, token)
        self._owned = http is None
        self._http = http or httpx.AsyncClient()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._owned:
            await self._http.aclose()

    async def run(self, steps: Steps[T]) -> T:
        """Carry out an operation."""
        try:
            wanted = next(steps)
            while True:
                try:
                    answer = await self._do(wanted)
                except UnavailableError as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # the generator's return type is T

    async def _do(self, wanted: Call | Pause) -> Answer:
        if isinstance(wanted, Pause):
            await asyncio.sleep(wanted.seconds)
            return _NOTHING
        try:
            return await self._send(wanted)
        except httpx.TransportError as error:
            raise self._unreachable(wanted, error) from None

    async def _send(self, call: Call) -> Answer:
        async with self._http.stream(
            call.method,
            self._address(call),
            params=dict(call.query) or None,
            headers=self._headers(call),
            json=call.json,
            content=_chunks(call.file) if call.file else None,
            timeout=self._timeout(call),
        ) as response:
            return await self._receive(call, response)

    @staticmethod
    async def _receive(call: Call, response: httpx.Response) -> Answer:
        headers = _headers_of(response)
        body = bytearray()
        if call.sink is not None and response.is_success:
            call.sink.begin(response.status_code, headers)
            try:
                async for chunk in response.aiter_raw():
                    call.sink.write(chunk)
            finally:
                call.sink.end()
        else:
            async for chunk in response.aiter_bytes():
                _append(body, chunk)
        return Answer(response.status_code, headers, bytes(body))

    openapi = _async(operations.openapi)
    me = _async(operations.me)
    list_organizations = _async(operations.list_organizations)
    create_organization = _async(operations.create_organization)
    get_organization = _async(operations.get_organization)
    rename_organization = _async(operations.rename_organization)
    delete_organization = _async(operations.delete_organization)
    list_members = _async(operations.list_members)
    add_member = _async(operations.add_member)
    change_member = _async(operations.change_member)
    remove_member = _async(operations.remove_member)
    list_invitations = _async(operations.list_invitations)
    invite = _async(operations.invite)
    take_back_invitation = _async(operations.take_back_invitation)
    change_password = _async(operations.change_password)
    list_sessions = _async(operations.list_sessions)
    end_session = _async(operations.end_session)
    end_sessions = _async(operations.end_sessions)
    list_identities = _async(operations.list_identities)
    unlink_identity = _async(operations.unlink_identity)
    list_audit = _async(operations.list_audit)
    export_audit = _async(operations.export_audit)
    list_edges = _async(operations.list_edges)
    erase_device = _async(operations.erase_device)
    erase_organization = _async(operations.erase_organization)
    get_erasure = _async(operations.get_erasure)
    list_tokens = _async(operations.list_tokens)
    create_token = _async(operations.create_token)
    revoke_token = _async(operations.revoke_token)
    list_apps = _async(operations.list_apps)
    create_app = _async(operations.create_app)
    get_app = _async(operations.get_app)
    update_app = _async(operations.update_app)
    delete_app = _async(operations.delete_app)
    list_models = _async(operations.list_models)
    create_model = _async(operations.create_model)
    get_model = _async(operations.get_model)
    rename_model = _async(operations.rename_model)
    delete_model = _async(operations.delete_model)
    list_environments = _async(operations.list_environments)
    create_environment = _async(operations.create_environment)
    get_environment = _async(operations.get_environment)
    rename_environment = _async(operations.rename_environment)
    delete_environment = _async(operations.delete_environment)
    list_environment_groups = _async(operations.list_environment_groups)
    list_push_credentials = _async(pushing.list_push_credentials)
    set_push_credential = _async(pushing.set_push_credential)
    delete_push_credential = _async(pushing.delete_push_credential)
    send_push = _async(pushing.send_push)
    list_pushes = _async(pushing.list_pushes)
    get_push = _async(pushing.get_push)
    list_pushed_devices = _async(pushing.list_pushed_devices)
    push_effect = _async(pushing.push_effect)
    pause_push = _async(pushing.pause_push)
    resume_push = _async(pushing.resume_push)
    cancel_push = _async(pushing.cancel_push)
    list_keys = _async(operations.list_keys)
    add_key = _async(operations.add_key)
    revoke_key = _async(operations.revoke_key)
    rotate_root = _async(operations.rotate_root)
    rotate_online_key = _async(operations.rotate_online_key)
    list_devices = _async(operations.list_devices)
    list_versions = _async(operations.list_versions)
    get_version = _async(operations.get_version)
    describe_version = _async(operations.describe_version)
    rename_version = _async(operations.rename_version)
    delete_version = _async(operations.delete_version)
    upload_version = _async(uploading.upload_version)
    fetch_version = _async(fetching.fetch_version)
    deploy = _async(operations.deploy)
    roll_back = _async(operations.roll_back)
    list_deployments = _async(operations.list_deployments)
    list_patches = _async(operations.list_patches)
    adoption = _async(operations.adoption)
    adoption_curve = _async(figuring.adoption_curve)
    hourly_adoption = _async(figuring.hourly_adoption)
    active_devices = _async(figuring.active_devices)
    installations = _async(figuring.installations)
    version_mix = _async(figuring.version_mix)
    funnel = _async(figuring.funnel)
    failure_rates = _async(figuring.failure_rates)
    download_times = _async(figuring.download_times)
    bytes_sent = _async(figuring.bytes_sent)
    time_to_adopt = _async(figuring.time_to_adopt)
    stuck_devices = _async(figuring.stuck_devices)
    sql = _async(operations.sql)


async def _chunks(file: FileSlice) -> AsyncIterator[bytes]:
    """Read a slice without holding up the loop."""
    pieces = file.chunks()
    while (chunk := await asyncio.to_thread(next, pieces, None)) is not None:
        yield chunk
