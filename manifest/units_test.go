package manifest_test

import (
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"reconciler/manifest"
)

// TestWholeQuantities wants a whole number to come to what it does with a fraction of nothing, which is calculated in
// another way.
func TestWholeQuantities(t *testing.T) {
	number := rapid.OneOf(rapid.Int64Range(0, 2_000).AsAny(), rapid.Int64().AsAny(), rapid.Uint64().AsAny())
	suffix := rapid.SampledFrom([]string{"", "m", "k", "K", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "ki", "mi", "x"})
	rapid.Check(t, func(rt *rapid.T) {
		whole, unit := "", suffix.Draw(rt, "suffix")
		switch n := number.Draw(rt, "number").(type) {
		case int64:
			whole = strconv.FormatInt(n, 10)
		case uint64:
			whole = strconv.FormatUint(n, 10)
		}
		same := func(got, want int64, gotErr, wantErr error) {
			if got != want || (gotErr == nil) != (wantErr == nil) {
				rt.Fatalf("%s%s: %d, %v; %s.0%s: %d, %v", whole, unit, got, gotErr, whole, unit, want, wantErr)
			}
		}
		bytes, err := manifest.ParseBytes(whole + unit)
		bytes2, err2 := manifest.ParseBytes(whole + ".0" + unit)
		same(int64(bytes), int64(bytes2), err, err2)
		cpu, err := manifest.ParseMilliCPU(whole + unit)
		cpu2, err2 := manifest.ParseMilliCPU(whole + ".0" + unit)
		same(int64(cpu), int64(cpu2), err, err2)
	})
}
