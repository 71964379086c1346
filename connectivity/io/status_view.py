"""``postern gateway status``, ``postern client status``: what the one that runs says about itself, as JSON."""

import http.client
import json
from collections.abc import Sequence
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.settings import SettingsReader

_TIMEOUT_SECONDS: Final = 5.0
_HTTP_OK: Final = 200


def run(service: str, arguments: Sequence[str]) -> int:
    """Ask the service's ``/status`` and print the answer; JSON escapes what a terminal would act on.

    Raises:
        FatalError: nobody answers there, or not so.
        SettingsError: the arguments mean nothing, or no address is given.
    """
    reader = SettingsReader(f"{service} status", arguments)
    address = reader.required(
        "POSTERN_STATUS_ADDR", "--status-addr", Endpoint.parse, f"the address:port that the {service} was started with"
    )
    reader.finish()
    connection = http.client.HTTPConnection(str(address.ip), address.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != _HTTP_OK:
            raise FatalError(f"{address} answers {answer.status}: no {service} has POSTERN_STATUS_ADDR={address}")
        print(json.dumps(json.loads(text), indent=2))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FatalError(f"no {service} answers at {address}") from error
    finally:
        connection.close()
    return 0
