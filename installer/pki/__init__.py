"""The site's offline certificate authority: files on the control host, used only while somebody installs.

``certificate`` decides what stands in a certificate and whether one can stay; it knows no files. ``authority`` keeps the
key, the register and the revocation list.
"""

from installer.pki.authority import Authority, Issued
from installer.pki.certificate import Kind, renewal_reason, utc_now

__all__ = ["Authority", "Issued", "Kind", "renewal_reason", "utc_now"]
