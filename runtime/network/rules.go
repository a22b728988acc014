package network

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The bricks that rules are made of: each returns the expressions of one condition or of one end.

// firstRegister is the first of sixteen registers of four bytes; a key of several fields fills them one after another.
const firstRegister = unix.NFT_REG32_00

// field is a part of a packet that is loaded into registers.
type field struct {
	load  func(register uint32) expr.Any
	words uint32 // registers that it fills
}

func payload(base expr.PayloadBase, offset, length uint32) field {
	return field{words: (length + 3) / 4, load: func(register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
	}}
}

func meta(key expr.MetaKey, words uint32) field {
	return field{words: words, load: func(register uint32) expr.Any { return &expr.Meta{Key: key, Register: register} }}
}

// family is what rules need to know of IPv4 or IPv6.
type family struct {
	nfproto      byte
	saddr, daddr field
	loopback     netip.Prefix
}

func overIPv4() family {
	return family{
		nfproto: unix.NFPROTO_IPV4, saddr: payload(expr.PayloadBaseNetworkHeader, 12, 4), daddr: payload(expr.PayloadBaseNetworkHeader, 16, 4),
		loopback: netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
	}
}

func overIPv6() family {
	return family{
		nfproto: unix.NFPROTO_IPV6, saddr: payload(expr.PayloadBaseNetworkHeader, 8, 16), daddr: payload(expr.PayloadBaseNetworkHeader, 24, 16),
		loopback: netip.PrefixFrom(netip.IPv6Loopback(), 128),
	}
}

func l4proto() field   { return meta(expr.MetaKeyL4PROTO, 1) }
func inName() field    { return meta(expr.MetaKeyIIFNAME, 4) }
func outName() field   { return meta(expr.MetaKeyOIFNAME, 4) }
func nfproto() field   { return meta(expr.MetaKeyNFPROTO, 1) }
func dport() field     { return payload(expr.PayloadBaseTransportHeader, 2, 2) }
func etherSrc() field  { return payload(expr.PayloadBaseLLHeader, 6, 6) }
func etherType() field { return payload(expr.PayloadBaseLLHeader, 12, 2) }

// when compares a field with a value; a value shorter than the field compares its beginning.
func when(f field, op expr.CmpOp, value ...byte) []expr.Any {
	return []expr.Any{f.load(firstRegister), &expr.Cmp{Op: op, Register: firstRegister, Data: value}}
}

func is(f field, value ...byte) []expr.Any { return when(f, expr.CmpOpEq, value...) }

func isNot(f field, value ...byte) []expr.Any { return when(f, expr.CmpOpNeq, value...) }

// name is an interface's whole name, as the kernel compares it.
func name(s string) []byte { return append([]byte(s), make([]byte, unix.IFNAMSIZ-len(s))...) }

// within reports whether an address is of the prefix.
func isWithin(f field, p netip.Prefix) []expr.Any { return masked(f, expr.CmpOpEq, p) }

func masked(f field, op expr.CmpOp, p netip.Prefix) []expr.Any {
	address := p.Masked().Addr().AsSlice()
	mask := make([]byte, len(address))
	for bit := range p.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return []expr.Any{
		f.load(firstRegister),
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: op, Register: firstRegister, Data: address},
	}
}

// isIn looks a key up in a set, isMissing the other way round.
func isIn(set string, key ...field) []expr.Any { return look(&expr.Lookup{SetName: set}, key) }

func isMissing(set string, key ...field) []expr.Any {
	return look(&expr.Lookup{SetName: set, Invert: true}, key)
}

// mapped looks a key up in a map and leaves the value in the registers.
func mapped(set string, key ...field) []expr.Any {
	return look(&expr.Lookup{SetName: set, DestRegister: firstRegister, IsDestRegSet: true}, key)
}

func look(l *expr.Lookup, key []field) []expr.Any {
	var all []expr.Any
	register := uint32(firstRegister)
	for _, f := range key {
		all = append(all, f.load(register))
		register += f.words
	}
	l.SourceRegister = firstRegister
	return append(all, l)
}

// conntrack tests bits of a key of connection tracking.
func conntrackHas(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: firstRegister},
		&expr.Bitwise{
			SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
	}
}

// ctStatusDNAT is IPS_DST_NAT of the kernel: somebody translated the destination of the connection.
const ctStatusDNAT = 1 << 5

// toThisServer holds for packets whose destination is one of the server's own addresses.
func toThisServer() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: firstRegister, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// translate sends the connection to the address and port that mapped left.
func translate(f family) []expr.Any {
	return []expr.Any{&expr.NAT{
		Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto),
		RegAddrMin: firstRegister, RegProtoMin: firstRegister + f.daddr.words,
	}}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func back() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}} }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}
