package manifest

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Bytes is a number of bytes, written as a Kubernetes quantity: 64Mi, 1G, 1048576.
type Bytes int64

// MilliCPU is thousandths of a CPU core, written as a Kubernetes quantity: 250m, 0.5, 2.
type MilliCPU int64

// BitRate is a bandwidth in bits a second, written as a Kubernetes quantity: 10M.
type BitRate int64

// Duration is a time.Duration, written as Go does: 30s, 5m.
type Duration time.Duration

// FileMode holds permission bits, written in octal: "0640".
type FileMode uint32

// ParseBytes parses a quantity of bytes. Thousandths (64m) are refused: they are always a slip for M or Mi.
func ParseBytes(s string) (Bytes, error) {
	n, err := parseQuantity(s, 1, "64Mi or 1Gi")
	if err != nil {
		if len(s) > 1 && strings.HasSuffix(s, "m") && !strings.HasSuffix(s, "mm") {
			return 0, fmt.Errorf("%q is in thousandths of a byte: did you mean %q?", s, strings.TrimSuffix(s, "m")+"Mi")
		}
		return 0, err
	}
	return Bytes(n), nil
}

// ParseMilliCPU parses a quantity of CPU cores, rounding up to thousandths.
func ParseMilliCPU(s string) (MilliCPU, error) {
	n, err := parseQuantity(s, 1000, "250m, 0.5 or 2")
	return MilliCPU(n), err
}

// ParseBitRate parses a bandwidth in bits a second.
func ParseBitRate(s string) (BitRate, error) {
	n, err := parseQuantity(s, 1, "10M")
	return BitRate(n), err
}

// ParseDuration parses a duration that is not negative.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("want a duration such as 30s or 5m, not %q", s)
	case d < 0:
		return 0, fmt.Errorf("want a duration that is not negative, not %q", s)
	}
	return Duration(d), nil
}

// ParseFileMode parses permission bits in octal, with or without a leading 0 or 0o.
func ParseFileMode(s string) (FileMode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n > 0o777 {
		return 0, fmt.Errorf("want permissions in octal from 0000 to 0777, such as \"0640\", not %q", s)
	}
	return FileMode(n), nil
}

// The longest quantity that anybody writes is far below this; big.Rat must not be fed megabytes.
const maxQuantityLen = 40

// parseQuantity parses s, times scale, rounded up as Kubernetes does.
func parseQuantity(s string, scale int64, example string) (int64, error) {
	bad := func() (int64, error) { return 0, fmt.Errorf("want a quantity such as %s, not %q", example, clip(s)) }
	if s == "" || len(s) > maxQuantityLen {
		return bad()
	}
	end := strings.LastIndexAny(s, "0123456789.") + 1
	number, suffix := s[:end], s[end:]
	if i := strings.IndexAny(number, "eE"); i >= 0 { // 1e3, as opposed to the suffix E
		exp, err := strconv.Atoi(number[i+1:])
		if err != nil || suffix != "" || exp < -18 || exp > 18 {
			return bad()
		}
	} else if strings.Trim(number, "+-0123456789.") != "" {
		return bad()
	}
	times, ok := quantityFactor(suffix)
	switch {
	case !ok, suffix == "m" && scale == 1:
		return bad()
	case suffix == "m":
		scale = 1 // it is thousandths that are counted
	}
	// A whole number, as nearly all are, is exact without fractions.
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n >= 0 && n <= math.MaxInt64/times/scale {
		return n * times * scale, nil
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok || strings.ContainsAny(number, "_/xXbBoOpP") {
		return bad()
	}
	value.Mul(value, new(big.Rat).SetInt64(times)).Mul(value, new(big.Rat).SetInt64(scale))
	if value.Sign() < 0 {
		return 0, errors.New("must not be negative")
	}
	num, rest := new(big.Int).QuoRem(value.Num(), value.Denom(), new(big.Int))
	if rest.Sign() != 0 {
		num.Add(num, big.NewInt(1))
	}
	if !num.IsInt64() {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return num.Int64(), nil
}

// quantityFactor is what a suffix stands for, but for the thousandth, which is one of what is counted then.
func quantityFactor(suffix string) (int64, bool) {
	const decimal, binary = "kMGTPE", "KMGTPE"
	switch {
	case suffix == "", suffix == "m":
		return 1, true
	case len(suffix) == 1 && strings.Contains(decimal, suffix):
		return power(1000, strings.Index(decimal, suffix)+1), true
	case len(suffix) == 2 && suffix[1] == 'i' && strings.IndexByte(binary, suffix[0]) >= 0:
		return power(1024, strings.IndexByte(binary, suffix[0])+1), true
	default:
		return 0, false
	}
}

func power(base int64, n int) int64 {
	all := int64(1)
	for range n {
		all *= base
	}
	return all
}

// String returns the shortest exact quantity, such as 64Mi or 1500.
func (b Bytes) String() string {
	for i, unit := range []string{"Ei", "Pi", "Ti", "Gi", "Mi", "Ki"} {
		if size := Bytes(1) << (10 * (6 - i)); b != 0 && b%size == 0 {
			return strconv.FormatInt(int64(b/size), 10) + unit
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// String returns cores where whole, else thousandths: 2 or 250m.
func (c MilliCPU) String() string {
	if c%1000 == 0 {
		return strconv.FormatInt(int64(c/1000), 10)
	}
	return strconv.FormatInt(int64(c), 10) + "m"
}

// String returns the shortest exact quantity, such as 10M.
func (r BitRate) String() string {
	size := BitRate(1e18)
	for _, unit := range "EPTGMk" {
		if r != 0 && r%size == 0 {
			return strconv.FormatInt(int64(r/size), 10) + string(unit)
		}
		size /= 1000
	}
	return strconv.FormatInt(int64(r), 10)
}

// String returns the duration as people write it: 5m, not 5m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// String returns the permissions in octal, such as 0640.
func (m FileMode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// MarshalText returns String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// MarshalText returns String.
func (c MilliCPU) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// MarshalText returns String.
func (r BitRate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalText returns String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// MarshalText returns String.
func (m FileMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText parses what ParseBytes does.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// UnmarshalText parses what ParseMilliCPU does.
func (c *MilliCPU) UnmarshalText(text []byte) (err error) {
	*c, err = ParseMilliCPU(string(text))
	return err
}

// UnmarshalText parses what ParseBitRate does.
func (r *BitRate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseBitRate(string(text))
	return err
}

// UnmarshalText parses what ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}

// UnmarshalText parses what ParseFileMode does.
func (m *FileMode) UnmarshalText(text []byte) (err error) {
	*m, err = ParseFileMode(string(text))
	return err
}

// clip shortens what a stranger wrote before it is shown.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
