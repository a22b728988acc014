package manifest

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// decoder fills typed values from YAML nodes, strictly, and tells every problem with its position and field.
type decoder struct {
	file    string
	origins map[*yaml.Node]string // files of nodes that are not of file
	types   typeCache
	removes bool // null in a mapping takes an entry away, as in an override
	// report is told what is wrong; unknown is told of fields that do not exist.
	report  func(Problem)
	unknown func(Problem)
	// full says that report has no room: what more there is need not be worded.
	full func() bool
	// hints is how many suggestions are still looked for.
	hints *int
	path  []segment
	bad   map[*yaml.Node]bool // values that could not be decoded: no rule needs to speak of them again
}

// segment is one step of a field's path: a key or, with key empty, an index.
type segment struct {
	key   string
	index int
}

// typeCache remembers what reflection said of the structs.
type typeCache map[reflect.Type]*structInfo

type structInfo struct {
	fields []fieldInfo
	names  []string
}

type fieldInfo struct {
	name  string
	index []int
	kinds []Kind // that a field of the spec is for; nil: for every kind
}

// nodeDecoder is a type that is written in more than one way.
type nodeDecoder interface {
	decodeNode(d *decoder, n *yaml.Node)
}

// worder is a string type with a closed set of values.
type worder interface{ words() []string }

func (c typeCache) of(t reflect.Type) *structInfo {
	if info, ok := c[t]; ok {
		return info
	}
	info := &structInfo{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "" || name == "-" || f.Tag.Get("manifest") == "-" {
			continue
		}
		owner := t
		if up := len(f.Index) - 1; up > 0 {
			owner = t.FieldByIndex(f.Index[:up]).Type
		}
		info.fields = append(info.fields, fieldInfo{name: name, index: f.Index, kinds: kindsOf(owner, name)})
		info.names = append(info.names, name)
	}
	c[t] = info
	return info
}

func (d *decoder) push(key string) { d.path = append(d.path, segment{key: key}) }
func (d *decoder) pushIndex(i int) { d.path = append(d.path, segment{index: i}) }
func (d *decoder) pop()            { d.path = d.path[:len(d.path)-1] }

func (d *decoder) field() string {
	out := make(fieldPath, 0, 64)
	for _, s := range d.path {
		out.add(s)
	}
	return string(out)
}

// fieldPath is a path as it is told: spec.mounts[2].path.
type fieldPath []byte

func (p *fieldPath) add(s segment) {
	switch {
	case s.key == "":
		*p = append(strconv.AppendInt(append(*p, '['), int64(s.index), 10), ']')
	case !plainKey(s.key):
		*p = append(strconv.AppendQuote(append(*p, '['), s.key), ']')
	default:
		if len(*p) > 0 {
			*p = append(*p, '.')
		}
		*p = append(*p, s.key...)
	}
}

func plainKey(s string) bool {
	return s != "" && len(s) <= 80 && isAlnumOr(s, "_-")
}

func (d *decoder) problem(at *yaml.Node, format string, args ...any) {
	if d.bad == nil {
		d.bad = make(map[*yaml.Node]bool)
	}
	d.bad[at] = true
	if d.full() {
		return
	}
	d.report(Problem{Position: d.position(at), Field: d.field(), Message: fmt.Sprintf(format, args...)})
}

// didYouMean is as the function of that name, but for the first problems only.
func (d *decoder) didYouMean(word string, known []string) string {
	if *d.hints--; *d.hints < 0 {
		return ""
	}
	return didYouMean(word, known)
}

func (d *decoder) position(n *yaml.Node) Position {
	if n == nil {
		return Position{File: d.file}
	}
	file := d.file
	if origin := d.origins[n]; origin != "" {
		file = origin
	}
	return positionOf(file, n)
}

// value decodes n into v, which is settable. A null leaves v as it is: the caller says whether it may stand there.
func (d *decoder) value(n *yaml.Node, v reflect.Value) {
	if !d.tagAllowed(n) {
		return
	}
	if v.CanAddr() {
		switch special := v.Addr().Interface().(type) {
		case nodeDecoder:
			special.decodeNode(d, n)
			return
		case encoding.TextUnmarshaler:
			if text, ok := d.scalar(n, "a quantity"); ok {
				if err := special.UnmarshalText([]byte(text)); err != nil {
					d.problem(n, "%s", err)
				}
			}
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(v.Type().Elem())
		d.value(n, fresh.Elem())
		v.Set(fresh)
	case reflect.String:
		d.text(n, v)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			d.problem(n, "want true or false, not %s", whatIs(n))
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int64:
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || strings.HasPrefix(strings.TrimLeft(n.Value, "+-"), "0") && i != 0 {
			d.problem(n, "want a whole number, not %s", whatIs(n))
			return
		}
		v.SetInt(i)
	case reflect.Slice:
		d.list(n, v)
	case reflect.Map:
		d.mapping(n, v)
	case reflect.Struct:
		d.structure(n, v)
	}
}

func (d *decoder) tagAllowed(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!map", "!!seq", "":
		return true
	default:
		d.problem(n, "the tag %s is not known here", quote(n.Tag))
		return false
	}
}

// scalar returns the source text of a scalar.
func (d *decoder) scalar(n *yaml.Node, want string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.problem(n, "want %s, not %s", want, whatIs(n))
		return "", false
	}
	if strings.ContainsRune(n.Value, 0) {
		d.problem(n, "must not hold a NUL byte")
		return "", false
	}
	return n.Value, true
}

func (d *decoder) text(n *yaml.Node, v reflect.Value) {
	enum, closed := reflect.TypeAssert[worder](v)
	if !closed {
		if text, ok := d.scalar(n, "a text"); ok {
			v.SetString(text)
		}
		return
	}
	words := enum.words()
	want := "one of " + strings.Join(words, ", ")
	text, ok := d.scalar(n, want)
	switch {
	case !ok:
	case slices.Contains(words, text):
		v.SetString(text)
	default:
		d.problem(n, "want %s, not %s%s", want, quote(text), d.didYouMean(text, words))
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n, "want a list, not %s", whatIs(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.pushIndex(i)
		if isNull(item) {
			d.problem(item, "has no value: write \"\" for an empty text, or take the line out")
		} else {
			d.value(item, out.Index(i))
		}
		d.pop()
	}
	v.Set(out)
}

// entries returns the entries of a mapping, each key once.
func (d *decoder) entries(n *yaml.Node) []pair {
	all := pairs(n)
	var first map[string]*yaml.Node
	if len(all) > 8 {
		first = make(map[string]*yaml.Node, len(all))
	}
	out := all[:0]
	for _, p := range all {
		if p.key.Kind != yaml.ScalarNode || isNull(p.key) {
			d.problem(p.key, "a key must be a text")
			continue
		}
		var before *yaml.Node
		if first != nil {
			before = first[p.key.Value]
			first[p.key.Value] = p.key
		} else if i := slices.IndexFunc(out, func(o pair) bool { return o.key.Value == p.key.Value }); i >= 0 {
			before = out[i].key
		}
		if before != nil {
			d.push(p.key.Value)
			d.problem(p.key, "stands twice: first on line %d", before.Line)
			d.pop()
			continue
		}
		out = append(out, p)
	}
	return out
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, "want a mapping, not %s", whatIs(n))
		return
	}
	entries := d.entries(n)
	out := reflect.MakeMapWithSize(v.Type(), len(entries))
	for _, e := range entries {
		d.push(e.key.Value)
		switch {
		case strings.ContainsRune(e.key.Value, 0):
			d.problem(e.key, "must not hold a NUL byte")
		case isNull(e.value) && d.removes:
		case isNull(e.value):
			d.problem(e.value, "has no value: write \"\" for an empty text, or take the line out")
		default:
			item := reflect.New(v.Type().Elem()).Elem()
			d.value(e.value, item)
			out.SetMapIndex(reflect.ValueOf(e.key.Value), item)
		}
		d.pop()
	}
	v.Set(out)
}

// entry decodes one field of a mapping, where it is there.
func (d *decoder) entry(m *yaml.Node, name string, v reflect.Value) {
	if n := child(m, name); n != nil && !isNull(n) {
		d.push(name)
		d.value(n, v)
		d.pop()
	}
}

// structure decodes a mapping into a struct. A field without a value counts as absent.
func (d *decoder) structure(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, "want a mapping, not %s", whatIs(n))
		return
	}
	info := d.types.of(v.Type())
	for _, e := range d.entries(n) {
		i := slices.Index(info.names, e.key.Value)
		d.push(e.key.Value)
		switch {
		case i < 0:
			d.unknown(Problem{Position: d.position(e.key), Field: d.field(), Message: d.unknownField(e.key.Value, info.names)})
		case !isNull(e.value):
			d.value(e.value, v.FieldByIndex(info.fields[i].index))
		}
		d.pop()
	}
}

func (d *decoder) unknownField(name string, known []string) string {
	if hint := d.didYouMean(name, known); hint != "" {
		return "unknown field" + hint
	}
	if len(known) <= 12 {
		return "unknown field; known here: " + strings.Join(known, ", ")
	}
	return "unknown field"
}
