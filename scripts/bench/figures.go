package main

import (
	"encoding/json"
	"fmt"
	"slices"
)

// figures are what was measured. The zero value is not ready: newFigures.
type figures struct {
	// Values are by row, who, and run.
	Values map[string]map[string]map[int]float64 `json:"values"`
	// Failed says of who was not measured as meant why that is.
	Failed map[string]string `json:"failed,omitempty"`
}

func newFigures() *figures {
	return &figures{Values: map[string]map[string]map[int]float64{}, Failed: map[string]string{}}
}

// set keeps what a run measured.
func (f *figures) set(key, who string, run int, value float64) {
	if f.Values[key] == nil {
		f.Values[key] = map[string]map[int]float64{}
	}
	if f.Values[key][who] == nil {
		f.Values[key][who] = map[int]float64{}
	}
	f.Values[key][who][run] = value
}

// fail keeps the first reason why one was not measured.
func (f *figures) fail(who string, run int, err error) {
	if f.Failed[who] == "" {
		f.Failed[who] = fmt.Sprintf("run %d: %v", run, err)
	}
}

// of returns all values of one in a row, and ratios the ratio of ours to theirs of each run that has both.
func (f *figures) of(key, who string) []float64 {
	var all []float64
	for _, v := range f.Values[key][who] {
		all = append(all, v)
	}
	return all
}

func (f *figures) ratios(key, who string) []float64 {
	var all []float64
	for run, v := range f.Values[key][ours] {
		if theirs, ok := f.Values[key][who][run]; ok && theirs > 0 {
			all = append(all, v/theirs)
		}
	}
	return all
}

func (f *figures) json() ([]byte, error) { return json.MarshalIndent(f, "", "  ") }

// median returns the middle one, or the mean of the two in the middle. It is 0 of none.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
