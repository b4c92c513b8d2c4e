package events

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// notPublic are networks that are not on the public internet (the IANA registries of
// special-purpose addresses, RFC 6890) and for which [netip.Addr] has no method. Some of them embed
// IPv4 addresses, to which their packets are forwarded (RFC 3056, RFC 4380).
var notPublic = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24",
	"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "2001::/23",
	"2001:db8::/32", "2002::/16", "3fff::/20")

// unicast is the only part of IPv6 with public addresses (RFC 4291). Some other parts lead to IPv4
// networks: ::ffff:0:0:0/96 (RFC 7915), for example.
var unicast = netip.MustParsePrefix("2000::/3")

// translated has the addresses by which DNS64 lets nodes without IPv4 reach IPv4 addresses (RFC
// 6052). The last four bytes are the address that a translator sends to. A network may use a prefix
// of its own, which looks like any other public address.
var translated = netip.MustParsePrefix("64:ff9b::/96")

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// public reports whether an address is on the public internet.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if translated.Contains(a) {
		bytes := a.As16()
		a = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	return a.IsGlobalUnicast() && !a.IsPrivate() && (a.Is4() || unicast.Contains(a)) &&
		!slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

var errPrivate = errors.New("the address is not public: set allow_private if the receiver is " +
	"in your own network")

// dialPublic refuses to connect to addresses that are not public. It is called with the address
// that is about to be dialed, so a name cannot resolve to another one afterwards.
func dialPublic(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if !public(a.Addr()) {
		return fmt.Errorf("%s: %w", a.Addr(), errPrivate)
	}
	return nil
}
