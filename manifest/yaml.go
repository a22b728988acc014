package manifest

import (
	"bytes"
	"errors"
	"io"

	"gopkg.in/yaml.v3"
)

// Limits on what a stranger's YAML can make us do. Those of one document stand in aliases.go.
const (
	maxFileSize  = 1 << 20  // bytes of one file
	maxTotalSize = 64 << 20 // bytes of all
	maxManifests = 10_000
	maxValues    = 10_000_000 // decoded for one node, with aliases, overrides and defaults applied
)

// parseDocuments parses the documents of one file. What it returns besides an error is of no use.
func parseDocuments(data []byte) (docs []*yaml.Node, err error) {
	defer func() {
		// yaml.v3 panics on some malformed input; a stranger's file must not end the agent.
		if r := recover(); r != nil {
			docs, err = nil, errors.New("not valid YAML")
		}
	}()
	if err := checkText(data); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		doc := new(yaml.Node)
		switch err := dec.Decode(doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, err
		case len(doc.Content) == 1 && !isNull(doc.Content[0]):
			docs = append(docs, doc.Content[0])
		}
	}
}

// parsed is what parseDocuments made of a file.
type parsed struct {
	docs []*yaml.Node
	err  error
}

// parsers is how many files are parsed at a time: with what decodes them, that keeps two to three processors busy.
const parsers = 2

// What is parsed before the first file is decoded is bounded: it is some dozen times as large then.
const (
	maxHeadStart     = 1_000   // files
	maxHeadStartSize = 1 << 20 // bytes of them
)

// headStart parses files while others are still being read: a processor that reads 10,000 from Git leaves another one idle.
type headStart struct {
	todo  chan fileData
	taken int
	size  int                 // bytes of what was taken
	done  chan map[int]parsed // by the place among the files
}

// fileData is what a file holds, and its place among the files.
type fileData struct {
	at   int
	data []byte
}

func newHeadStart() *headStart {
	h := &headStart{todo: make(chan fileData, maxHeadStart), done: make(chan map[int]parsed, 1)}
	go func() {
		out := make(map[int]parsed)
		for f := range h.todo {
			docs, err := parseDocuments(f.data)
			out[f.at] = parsed{docs, err}
		}
		h.done <- out
	}()
	return h
}

// take has a file parsed, if it can be in time.
func (h *headStart) take(f fileData) {
	if h.taken < maxHeadStart && h.size+len(f.data) <= maxHeadStartSize {
		h.taken++
		h.size += len(f.data)
		h.todo <- f // never waits: there is room for all
	}
}

// end gives files what was parsed of them, once what is being parsed is.
func (h *headStart) end(files []file) {
	close(h.todo)
	for range h.todo { // what was not begun
	}
	for at, p := range <-h.done {
		files[at].early = &p
	}
}

// parseAhead parses the files that are neither kept nor parsed while those before them are decoded: parsing is two thirds of the
// work. next returns them in order; stop ends it. What becomes of all meanwhile makes no difference.
func parseAhead(all []file) (next func() parsed, stop func()) {
	var todo [][]byte
	for _, f := range all {
		if f.kept == nil && f.early == nil {
			todo = append(todo, f.data)
		}
	}
	outs, end := make([]chan parsed, parsers), make(chan struct{})
	for k := range outs {
		outs[k] = make(chan parsed, 16)
		go func() {
			defer close(outs[k])
			for i := k; i < len(todo); i += parsers {
				docs, err := parseDocuments(todo[i])
				select {
				case outs[k] <- parsed{docs, err}:
				case <-end:
					return
				}
			}
		}()
	}
	turn := -1
	next = func() parsed {
		turn++
		return <-outs[turn%parsers]
	}
	stop = func() {
		close(end)
		for _, out := range outs {
			for range out { // until it has ended
			}
		}
	}
	return next, stop
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// pair is one entry of a mapping.
type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping.
func pairs(m *yaml.Node) []pair {
	out := make([]pair, 0, len(m.Content)/2)
	for i := 0; i+1 < len(m.Content); i += 2 {
		out = append(out, pair{m.Content[i], m.Content[i+1]})
	}
	return out
}

// child returns the value of a key, or nil.
func child(m *yaml.Node, key string) *yaml.Node {
	if m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key && m.Content[i].Kind == yaml.ScalarNode {
			return m.Content[i+1]
		}
	}
	return nil
}

// whatIs names the sort of value that a person wrote.
func whatIs(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!str":
			return "the text " + quote(n.Value)
		default:
			return clip(n.Value)
		}
	}
}
