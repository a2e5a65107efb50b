#!/usr/bin/env python3
"""Makes flow_hash.tsv and router.tsv: flows, the packets that carry them, and the buckets that they belong to.

This is the second implementation. It shares nothing with the first (src/flow.rs, bpf/*.h): the hash is Bob Jenkins'
lookup3 as he describes it, the key layouts come from docs/datapath.md, and the packets are built here from the RFCs. It
is deterministic, so that `make.py --check` tells whether the table is what this script makes.
"""

import ipaddress
import os
import random
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(HERE, "flow_hash.tsv")
ROUTER_TABLE = os.path.join(HERE, "router.tsv")
MASK = 0xFFFFFFFF
COLUMNS = "what side mode seed protocol src src_port dst dst_port key hash bucket packet".split()

TCP, UDP, ICMP, ICMPV6, GRE, ESP, SCTP, DCCP, UDPLITE = 6, 17, 1, 58, 47, 50, 132, 33, 136


# --- lookup3 ---------------------------------------------------------------------------------------------------------

def rotate(word, by):
    return ((word << by) | (word >> (32 - by))) & MASK


def lookup3(key, initval):
    """hashlittle(): 12 bytes at a time, the last 1 to 12 of them zero-padded and given the final mix."""
    state = [(0xDEADBEEF + len(key) + initval) & MASK] * 3

    def absorb(block):
        for index, word in enumerate(struct.unpack("<3I", block.ljust(12, b"\0"))):
            state[index] = (state[index] + word) & MASK

    while len(key) > 12:
        absorb(key[:12])
        key = key[12:]
        # mix(): each line subtracts the third from the first, rotates it in, and adds the second to the third,
        # with the roles moving on.
        for step, by in enumerate((4, 6, 8, 16, 19, 4)):
            first, second, third = step % 3, (step + 1) % 3, (step + 2) % 3
            state[first] = ((state[first] - state[third]) & MASK) ^ rotate(state[third], by)
            state[third] = (state[third] + state[second]) & MASK
    if not key:
        return state[2]
    absorb(key)
    # final(): each line xors one into the next and subtracts its rotation.
    for step, by in enumerate((14, 11, 25, 16, 4, 14, 24)):
        target, source = (2 + step) % 3, (1 + step) % 3
        state[target] = ((state[target] ^ state[source]) - rotate(state[source], by)) & MASK
    return state[2]


# Seen in the field: nftables spread real flows by these.
KNOWN = [
    ("0a631005", 0x22902FEB), ("c0000201", 0x2A664965), ("ac10fe03", 0xE3A8E49E),
    ("0a6310059c400000", 0x15AF28C4), ("c000020100350000", 0x72B455DE),
    ("060000000a6310059c400000", 0xC3B93512), ("11000000c000020100350000", 0x8CB968BA),
    ("20010db8000000000000000000000001", 0xF376B7FC), ("fd99000100000000000000000000abcd", 0x4AAB0026),
    ("20010db800000000000000000000000101bb0000", 0x86F83926),
]
for text, expected in KNOWN:
    assert lookup3(bytes.fromhex(text), 12345) == expected, text


# --- keys ------------------------------------------------------------------------------------------------------------

def key_of(flow, side, mode):
    """Of a packet that is routed; those to and from addresses of the cluster are in tests/router.rs."""
    _, src, src_port, dst, dst_port = flow
    own, own_port, peer_port = (dst, dst_port, src_port) if side == "outside" else (src, src_port, dst_port)
    if mode == "none":
        return b""
    if mode == "source-net":
        return ipaddress.ip_network((own, 24 if own.version == 4 else 64), strict=False).network_address.packed
    key = own.packed
    if own_port is not None and mode != "source-ip":
        key += struct.pack(">HH", own_port, 0)
        if mode == "source-ip-port-dest-port":
            key += struct.pack(">HH", peer_port, 0)
    return key


# --- packets ---------------------------------------------------------------------------------------------------------

def ip(src, dst, protocol, payload, fragment=None, options=b"", extensions=()):
    """`fragment` is (offset in eights, more); `extensions` are (number, body without the first byte)."""
    if src.version == 4:
        flags = 0 if fragment is None else fragment[0] | (0x2000 if fragment[1] else 0)
        head = struct.pack(">BBHHHBBH", 0x40 | (5 + len(options) // 4), 0, 20 + len(options) + len(payload), 0x4242,
                           flags, 64, protocol, 0) + src.packed + dst.packed + options
        total = sum(struct.unpack(">%dH" % (len(head) // 2), head))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        return head[:10] + struct.pack(">H", total ^ 0xFFFF) + head[12:] + payload
    chain = list(extensions)
    if fragment is not None:
        chain.append((44, struct.pack(">BHI", 0, fragment[0] << 3 | fragment[1], 0x4242)))
    following = protocol
    for number, body in reversed(chain):
        payload = bytes([following]) + body + payload
        following = number
    return struct.pack(">IHBB", 0x60000000, len(payload), following, 64) + src.packed + dst.packed + payload


def transport(flow):
    protocol, _, src_port, _, dst_port = flow
    if protocol == TCP:
        return struct.pack(">HHIIBBHHH", src_port, dst_port, 1, 0, 0x50, 2, 65535, 0, 0)
    if protocol in (ICMP, ICMPV6):
        return struct.pack(">BBHHH", 8 if protocol == ICMP else 128, 0, 0, src_port, 1)
    if src_port is None:
        return b"\x20\x00\x08\x00" * 4
    return struct.pack(">HHHH", src_port, dst_port, 12, 0) + b"data"


def packet(flow, **more):
    return ip(flow[1], flow[3], flow[0], transport(flow), **more)


def error(kind, about, router, flow):
    """An ICMP error about a packet of the other direction, sent by a router to the source of that packet."""
    protocol = ICMP if flow[1].version == 4 else ICMPV6
    return ip(router, flow[1], protocol, struct.pack(">BBHI", kind, 1, 0, 1400) + about)


def reverse(flow):
    protocol, src, src_port, dst, dst_port = flow
    return (protocol, dst, dst_port, src, src_port)


def without_ports(flow):
    return (flow[0], flow[1], None, flow[3], None)


# --- the table -------------------------------------------------------------------------------------------------------

def address(rng, version):
    if version == 4:
        return ipaddress.ip_address(rng.randrange(0x01000000, 0xDF000000))
    return ipaddress.ip_address((0x2 << 124) | rng.getrandbits(124))


def cases(rng, side, version):
    """(what it is, the flow that it belongs to, its packet)"""
    def flow(protocol):
        if protocol in (ICMP, ICMPV6):
            ident = rng.randrange(65536)
            return (protocol, address(rng, version), ident, address(rng, version), ident)
        if protocol in (GRE, ESP):
            return (protocol, address(rng, version), None, address(rng, version), None)
        return (protocol, address(rng, version), rng.randrange(65536), address(rng, version), rng.randrange(65536))

    echo = ICMP if version == 4 else ICMPV6
    for name, protocol in (("tcp", TCP), ("udp", UDP), ("sctp", SCTP), ("dccp", DCCP), ("udp-lite", UDPLITE),
                           ("echo", echo), ("gre", GRE), ("esp", ESP)):
        one = flow(protocol)
        yield name, one, packet(one)
    # A router remembers the ports of the first fragment; elsewhere fragments have none.
    seen = without_ports if side == "service" else lambda flow: flow
    one = flow(UDP)
    for name, part in (("first fragment", (0, 1)), ("middle fragment", (100, 1)), ("last fragment", (185, 0))):
        yield name, seen(one), packet(one, fragment=part)

    router = address(rng, version)
    errors = (("unreachable", 3), ("quench", 4), ("redirect", 5), ("time exceeded", 11), ("parameter problem", 12)) \
        if version == 4 else (("unreachable", 1), ("too big", 2), ("time exceeded", 3), ("parameter problem", 4))
    for name, kind in errors:
        one = flow(rng.choice((TCP, UDP)))
        yield name, one, error(kind, packet(reverse(one)), router, one)
    one = flow(echo)
    yield "unreachable, of an echo", one, error(errors[0][1], packet(reverse(one)), router, one)
    one = flow(TCP)
    yield "unreachable, of a fragment", seen(one), \
        error(errors[0][1], packet(reverse(one), fragment=(0, 1)), router, one)
    one = flow(ESP)
    yield "unreachable, of esp", one, error(errors[0][1], packet(reverse(one)), router, one)
    one = flow(UDP)
    yield "unreachable, cut behind eight bytes", one, \
        error(errors[0][1], packet(reverse(one))[:(20 if version == 4 else 40) + 8], router, one)

    if version == 4:
        one = flow(TCP)
        yield "options", one, packet(one, options=b"\x94\x04\x00\x00" + b"\x01" * 8)
        one = flow(UDP)
        yield "do not fragment", one, packet(one, fragment=(0x4000, 0))
    else:
        one = flow(UDP)
        yield "atomic fragment", one, packet(one, fragment=(0, 0))
        one = flow(TCP)
        yield "extension headers", one, packet(
            one, extensions=((0, b"\0" * 7), (60, b"\1" + b"\0" * 14), (43, b"\0" * 7), (51, b"\4" + b"\0" * 22)))
        one = flow(UDP)
        yield "extension headers, then a fragment", seen(one), packet(
            one, extensions=((0, b"\0" * 7), (60, b"\0" * 7)), fragment=(0, 1))
        one = flow(UDP)
        yield "unreachable, of extension headers", one, \
            error(1, packet(reverse(one), extensions=((60, b"\0" * 7),)), router, one)


def rows():
    rng = random.Random("rudel")
    for side in ("service", "inside", "outside"):
        for mode in ("source-ip", "source-ip-port", "source-ip-port-dest-port", "source-net", "none"):
            seed = rng.choice((0, 12345, 0xFFFFFFFF, rng.getrandbits(32)))
            for version in (4, 6):
                for what, flow, data in cases(rng, side, version):
                    key = key_of(flow, side, mode)
                    digest = lookup3(key, seed) if key else None
                    show = lambda value: "-" if value is None else str(value)
                    yield (what, side, mode, str(seed), *map(show, flow), key.hex() or "-",
                           "-" if digest is None else "%08x" % digest, str(digest >> 24 if key else 0), data.hex())


# --- routers ---------------------------------------------------------------------------------------------------------

# Of tests/common/mod.rs: what the router of the second table has around it.
def addresses(*texts):
    return {ipaddress.ip_address(text) for text in texts}


def networks(*texts):
    return [ipaddress.ip_network(text) for text in texts]


OWN = addresses("10.0.0.1", "10.1.0.1", "198.51.100.1", "2001:db8:51::1", "fd00::1")
TRANSLATED = addresses("198.51.100.10", "198.51.100.11", "2001:db8:51::10")
SOURCES = networks("10.0.0.0/8", "fd00::/8")
INSIDE = networks("10.0.0.0/16", "10.1.0.0/16", "fd00::/64", "fd00:1::/64")
OUTER = {(TCP, "198.51.100.10", 443), (UDP, "198.51.100.11", 5000), (TCP, "2001:db8:51::10", 443)}
INNER = {(TCP, "10.1.0.5", 8443), (UDP, "10.1.0.5", 53), (TCP, "fd00:1::5", 8443)}


def lies_in(address, where):
    return any(address.version == network.version and address in network for network in where)


def bucket_of(flow, side, mode, seed):
    """The bucket of a packet on a router's interface. docs/datapath.md, "Routers", line by line."""
    protocol, src, src_port, dst, dst_port = flow
    if mode == "none":
        return 0

    def hashed(own, own_port, peer_port):
        key = key_of((protocol, own, own_port, None, peer_port), "service", mode)
        return lookup3(key, seed) >> 24

    end = lambda address, port: (protocol, str(address), port)
    if end(dst, dst_port) in OUTER | INNER:
        return hashed(src, src_port, 0)
    if end(src, src_port) in INNER:
        return hashed(dst, dst_port, 0)
    translatable = protocol in (TCP, UDP, ICMP, ICMPV6) and dst_port is not None
    if dst in TRANSLATED:
        if not translatable:
            return hashed(src, None, None)
        if dst_port >= 1024:
            return (dst_port - 1024) // 252
        return hashed(src, src_port, dst_port)
    if dst in OWN:
        return hashed(src, src_port, dst_port)
    if side == "outside":
        return hashed(dst, dst_port, src_port)
    if lies_in(dst, INSIDE):
        low = min((src, src_port, dst_port), (dst, dst_port, src_port), key=lambda one: one[0].packed)
        return hashed(*low)
    if not translatable and lies_in(src, SOURCES):
        return hashed(dst, None, None)
    return hashed(src, src_port, dst_port)


def router_cases(rng, version):
    """(what it is, the side, the flow, its packet)"""
    pick = lambda *texts: ipaddress.ip_address(rng.choice(texts))
    port = lambda: rng.randrange(1024, 65536)
    echo = ICMP if version == 4 else ICMPV6
    if version == 4:
        lan, dmz, nat, own, served = "10.0.7.%d" % rng.randrange(2, 255), "10.1.9.9", "198.51.100.10", "198.51.100.1", "10.1.0.5"
        beyond = "10.9.1.2"
    else:
        lan, dmz, nat, own, served = "fd00::%x" % rng.randrange(2, 255), "fd00:1::9", "2001:db8:51::10", "2001:db8:51::1", "fd00:1::5"
        beyond = "fd09::2"
    lan, dmz, nat, own, served, beyond = map(ipaddress.ip_address, (lan, dmz, nat, own, served, beyond))
    world = address(rng, version)
    for protocol in (TCP, UDP):
        flow = (protocol, lan, port(), world, port())
        yield "out", "inside", flow, packet(flow)
        flow = (protocol, world, port(), lan, port())
        yield "in, untranslated", "outside", flow, packet(flow)
        for number in (1024, 1275, 1276, 65535, port()):
            flow = (protocol, world, 53, nat, number)
            yield "to a translated port", "outside", flow, packet(flow)
        flow = (protocol, world, port(), nat, rng.randrange(1, 400))
        yield "to a service of its own at a translated address", "outside", flow, packet(flow)
        for flow in ((protocol, lan, port(), dmz, port()), (protocol, dmz, port(), lan, port())):
            yield "between inside networks", "inside", flow, packet(flow)
        flow = (protocol, world, port(), own, port())
        yield "to its own address", "outside", flow, packet(flow)
        flow = (protocol, lan, port(), own, port())
        yield "to its own address, from inside", "inside", flow, packet(flow)
        flow = (protocol, world, port(), nat, port())
        yield "error about a translated flow", "outside", flow, \
            error(3 if version == 4 else 2, packet(reverse(flow)), address(rng, version), flow)
        flow = (protocol, lan, port(), world, port())
        yield "error from inside", "inside", flow, error(3 if version == 4 else 1, packet(reverse(flow)), lan, flow)
    for inner in (served,):
        flow = (TCP, world, port(), nat, 443)
        yield "to a forwarded service", "outside", flow, packet(flow)
        flow = (TCP, inner, 8443, world, port())
        yield "from a forwarded service", "inside", flow, packet(flow)
        flow = (TCP, lan, port(), inner, 8443)
        yield "to a forwarded service, directly", "inside", flow, packet(flow)
        flow = (TCP, inner, 8444, world, port())
        yield "from another service there", "inside", flow, packet(flow)
    for identifier in (5, 1024, 65535, port()):
        flow = (echo, world, identifier, nat, identifier)
        yield "echo to a translated address", "outside", flow, packet(flow)
    flow = (echo, lan, 99, world, 99)
    yield "echo out", "inside", flow, packet(flow)
    for protocol in (GRE, ESP):
        for source in (lan, beyond):
            flow = (protocol, source, None, world, None)
            yield "out, without ports", "inside", flow, packet(flow)
        flow = (protocol, world, None, nat, None)
        yield "in, without ports", "outside", flow, packet(flow)
    flow = (SCTP, lan, port(), world, port())
    yield "out, ports that are not translated", "inside", flow, packet(flow)
    flow = (SCTP, world, port(), nat, port())
    yield "in, ports that are not translated", "outside", flow, packet(flow)
    flow = (UDP, world, 53, nat, port())
    for name, part in (("first fragment", (0, 1)), ("last fragment", (185, 0))):
        yield "to a translated port, " + name, "outside", flow, packet(flow, fragment=part)


def router_rows():
    rng = random.Random("router")
    for mode in ("source-ip", "source-ip-port", "source-ip-port-dest-port", "source-net", "none"):
        seed = rng.choice((12345, rng.getrandbits(32)))
        for version in (4, 6):
            for _ in range(3):
                for what, side, flow, data in router_cases(rng, version):
                    show = lambda value: "-" if value is None else str(value)
                    bucket = bucket_of(flow, side, mode, seed)
                    yield (what, side, mode, str(seed), *map(show, flow), "-", "-", str(bucket), data.hex())


def main():
    for table, made in ((TABLE, rows()), (ROUTER_TABLE, router_rows())):
        text = "".join("\t".join(row) + "\n" for row in [COLUMNS, *made])
        if "--check" in sys.argv[1:]:
            with open(table, encoding="ascii") as file:
                if file.read() != text:
                    sys.exit("%s is not what make.py makes" % os.path.basename(table))
        else:
            with open(table, "w", encoding="ascii") as file:
                file.write(text)


if __name__ == "__main__":
    main()
