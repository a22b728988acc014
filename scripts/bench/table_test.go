package main

import (
	"errors"
	"strings"
	"testing"
)

// What a table says is taken within each run: a slow run is slow for both.
func TestRatiosAreTakenWithinARun(t *testing.T) {
	f := newFigures()
	for run, pair := range [][2]float64{{100, 1000}, {900, 3000}, {300, 2000}} {
		f.set("removal", ours, run, pair[0])
		f.set("removal", docker, run, pair[1])
	}
	f.set("removal", docker, 3, 1) // a run in which ours failed
	got := table(f, rows(100))
	if want := "| removal of 100 | 300 ms | docker rm -f | 1500 ms | **0.150** (0.100–0.300) | 0.200 | yes |\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s\nwant at its end\n%s", got, want)
	}
}

func TestTableSaysWhatWasNotReached(t *testing.T) {
	f := newFigures()
	f.set("memory", ours, 1, 40.5)
	f.set("memory", podman, 1, 27)
	f.set("disk", ours, 1, 0)
	f.set("start", ours, 1, 700)
	f.set("start", runc, 1, 1000)
	f.fail(podman, 1, errors.New("it\nbroke"))
	f.fail(podman, 2, errors.New("and again"))
	got := report(f, facts{runs: 2, containers: 100}, rows(100), scales(), []int{10, 100, 500})
	for _, want := range []string{
		"| memory (PSS) of everything with 100 | 40.5 MiB | | | | 40.0 MiB | **no** |\n|  |  | conmon | 27.0 MiB | **1.50** (1.50–1.50) |  |  |\n",
		"| written to disk at rest, 120 polls | 0 bytes | | | | 0 bytes | yes |\n",
		"| 100 containers from nothing to running | 700 ms | podman run -d | – | – | 0.125 | – |\n|  |  | runc run -d | 1000 ms | **0.700** (0.700–0.700) | 0.600 | **no** |\n",
		"* podman run -d: run 1: it broke\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant in it\n%s", got, want)
		}
	}
	if strings.Contains(got, "removal") {
		t.Errorf("a row of which nothing was measured:\n%s", got)
	}
}

func TestGrowthHasAColumnForEachSize(t *testing.T) {
	f := newFigures()
	f.set("scale-start", sized(10), 1, 25)
	f.set("scale-start", sized(500), 1, 24)
	f.set("scale-load", sized(10_000), 1, 900)
	got := growth(f, scales(), []int{10, 100, 500})
	want := "| what grows | few | more | many |\n|---|--:|--:|--:|\n" +
		"| start, each container | 10: 25.0 ms | 100: – | 500: 24.0 ms |\n" +
		"| load and plan, manifests all for this node: cold | 100: – | 1000: – | 10000: 900 ms |\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPageKeepsWhatPeopleWrote(t *testing.T) {
	got, err := page("# head\n"+begin+"\nold\n"+end+"\ntail\n", "new\n")
	if want := "# head\n" + begin + "\nnew\n" + end + "\ntail\n"; err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	for _, text := range []string{"", begin, end + begin} {
		if got, err := page(text, "new"); err == nil {
			t.Errorf("%q without both marks became %q", text, got)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.of); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.of, got, c.want)
		}
	}
}

// Every row has a key of its own, or two would share their figures.
func TestRowsHaveKeysOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range append(rows(100), scales()...) {
		if seen[r.key] {
			t.Errorf("two rows have the key %s", r.key)
		}
		seen[r.key] = true
	}
}
