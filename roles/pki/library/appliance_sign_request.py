#!/usr/bin/python
"""Sign a node's certificate request with the site's authority. Runs on the control host."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

# The module runs on the control host, under the interpreter of the installer, which has these.
from engine.errors import ApplianceError
from installer.pki import Authority, utc_now
from installer.trust.secret import passphrase

DOCUMENTATION = """
module: appliance_sign_request
short_description: Sign a certificate request with the site's offline authority
description:
  - Returns the present certificate if it can stay, else a new one. Names come from the caller, never from the request.
options:
  ca_dir: {type: path, required: true, description: Directory of the authority.}
  passphrase_file: {type: path, required: true, description: File with its passphrase, readable by its owner alone.}
  name: {type: str, required: true, description: Common name.}
  names: {type: list, elements: str, required: true, description: DNS names and addresses.}
  request: {type: str, required: true, description: PEM request; empty in a dry run on a node without a key.}
  present: {type: str, default: '', description: PEM certificate that the node has.}
  days: {type: int, default: 365, description: Days of validity.}
  renew_before_days: {type: int, default: 60, description: Days before the end at which it is renewed.}
author: appliance authors
"""

RETURN = """
certificate: {type: str, returned: always, description: PEM certificate; empty in a dry run that would issue one.}
reason: {type: str, returned: always, description: Why a new one was issued; empty if the present one stays.}
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ca_dir": {"type": "path", "required": True},
            "passphrase_file": {"type": "path", "required": True, "no_log": False},
            "name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "request": {"type": "str", "required": True},
            "present": {"type": "str", "default": ""},
            "days": {"type": "int", "default": 365},
            "renew_before_days": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    given = module.params
    authority, now, names = Authority(Path(given["ca_dir"])), utc_now(), given["names"]
    request, present = given["request"].encode(), given["present"].encode()
    try:
        reason = authority.renewal_reason(
            present, request, names=names, renew_before_days=given["renew_before_days"], now=now
        )
        if not reason:
            module.exit_json(changed=False, certificate=given["present"], reason="")
        if module.check_mode:
            module.exit_json(changed=True, certificate="", reason=reason)
        secret = passphrase(Path(given["passphrase_file"]), purpose="the certificate authority")
        certificate = authority.sign_request(
            request, kind="node", name=given["name"], names=names, passphrase=secret, days=given["days"], now=now
        )
        module.exit_json(changed=True, certificate=certificate.decode(), reason=reason)
    except (ApplianceError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
