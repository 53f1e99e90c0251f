"""Addresses that a name given by a user may lead to: public ones, and never a metadata service.

What: `refused` says why an address must not be connected to. An IPv4 address inside an IPv6 one
(mapped, 6to4, Teredo, NAT64) is judged as what it stands for. Standard library only.
Source: RFC 6890 (special purposes), RFC 6052 (NAT64), the cloud providers' manuals (metadata).
"""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Where a cloud hands its credentials to whoever asks from inside. No setting allows these.
_METADATA = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # link-local: AWS, Azure, Google, Oracle, ECS
            "fd00:ec2::/32",
            "fd20:ce::254/128",
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
            "fe80::/10",
        ),
    )
)


def refused(text: str, *, private_allowed: bool) -> str | None:
    """Why this address must not be connected to; None: it may be. Raises: ValueError."""
    address = _meant(ipaddress.ip_address(text.partition("%")[0]))
    if any(address in network for network in _METADATA if network.version == address.version):
        return "it is a link-local or metadata address, which nothing may reach"
    if address.is_multicast or address.is_unspecified:
        return "it is no host's address"
    if not address.is_global and not private_allowed:
        return "it is a private address, and the operator has not named its host"
    return None


def _meant(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address
