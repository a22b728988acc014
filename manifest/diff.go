package manifest

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Diff returns what differs between two workloads, field by field and sorted by field, after both got the same
// defaults: it is empty where nothing does. Contents of Secrets are not known here and never shown; contents of
// Configs and scripts are shown as short digests.
func Diff(from, to Workload) []Change {
	df := differ{types: make(typeCache), classes: Classes()}
	df.change("kind", string(from.Kind), string(to.Kind), ClassReplace)
	df.texts("metadata.labels", from.Labels, to.Labels, ClassTakeOver)
	df.texts("metadata.annotations", from.Annotations, to.Annotations, ClassTakeOver)
	a, b := DefaultedFor(from.Kind, from.Spec), DefaultedFor(to.Kind, to.Spec)
	orDefault(&a.Hostname, from.Name.Name)
	orDefault(&b.Hostname, to.Name.Name)
	df.values("spec", "", reflect.ValueOf(a), reflect.ValueOf(b))
	df.change("spec.initContainers", initOrder(a.InitContainers), initOrder(b.InitContainers), classOf(df.classes, "initContainers"))
	df.texts("node", from.NodeEnv, to.NodeEnv, ClassReplace)
	df.configs(from, to)
	df.secrets(from, to)
	slices.SortFunc(df.changes, func(x, y Change) int { return strings.Compare(x.Field, y.Field) })
	return df.changes
}

type differ struct {
	types   typeCache
	classes map[string]Class
	changes []Change
}

func (df *differ) change(field, from, to string, class Class) {
	if from != to {
		df.changes = append(df.changes, Change{Field: field, From: from, To: to, Class: class})
	}
}

func (df *differ) texts(field string, from, to map[string]string, class Class) {
	for _, key := range keysOfBoth(from, to) {
		df.change(keyed(field, key), printable(from[key]), printable(to[key]), class)
	}
}

func keysOfBoth[V any](a, b map[string]V) []string {
	all := make(map[string]bool, len(a))
	for k := range maps.Keys(a) {
		all[k] = true
	}
	for k := range maps.Keys(b) {
		all[k] = true
	}
	return sortedKeys(all)
}

// keyed returns the path of a key of a mapping.
func keyed(field, key string) string {
	if plainKey(key) {
		return field + "." + key
	}
	return field + "[" + strconv.Quote(key) + "]"
}

// values compares two values of one type. field is shown; plain is the same without indexes and keys.
func (df *differ) values(field, plain string, a, b reflect.Value) {
	if text, ok := asText(a); ok {
		other, _ := asText(b)
		df.change(field, text, other, classOf(df.classes, plain))
		return
	}
	switch a.Kind() {
	case reflect.Pointer:
		df.pointers(field, plain, a, b)
	case reflect.Struct:
		for _, f := range df.types.of(a.Type()).fields {
			inner := strings.TrimPrefix(plain+"."+f.name, ".")
			df.values(field+"."+f.name, inner, a.FieldByIndex(f.index), b.FieldByIndex(f.index))
		}
	case reflect.Map:
		df.maps(field, plain, a, b)
	case reflect.Slice:
		df.slices(field, plain, a, b)
	default:
		df.change(field, fmt.Sprint(a.Interface()), fmt.Sprint(b.Interface()), classOf(df.classes, plain))
	}
}

func (df *differ) pointers(field, plain string, a, b reflect.Value) {
	elem := reflect.New(a.Type().Elem()).Elem()
	_, leaf := asText(elem)
	if elem.Kind() == reflect.Struct && !leaf {
		// An absent mapping is one with every field absent.
		if !a.IsNil() {
			elem = a.Elem()
		}
		other := reflect.New(a.Type().Elem()).Elem()
		if !b.IsNil() {
			other = b.Elem()
		}
		df.values(field, plain, elem, other)
		return
	}
	df.change(field, leafText(a), leafText(b), classOf(df.classes, plain))
}

func leafText(p reflect.Value) string {
	if p.IsNil() {
		return ""
	}
	if text, ok := asText(p.Elem()); ok {
		return text
	}
	return fmt.Sprint(p.Elem().Interface())
}

func (df *differ) maps(field, plain string, a, b reflect.Value) {
	show := func(m, key reflect.Value) string {
		v := m.MapIndex(key)
		if !v.IsValid() {
			return ""
		}
		if text, ok := asText(v); ok {
			return cmp.Or(text, `""`)
		}
		return fmt.Sprint(v.Interface())
	}
	all := make(map[string]bool)
	for _, k := range append(a.MapKeys(), b.MapKeys()...) {
		all[k.String()] = true
	}
	for _, key := range sortedKeys(all) {
		k := reflect.ValueOf(key)
		df.change(keyed(field, key), show(a, k), show(b, k), classOf(df.classes, plain))
	}
}

// slices compares lists whose items have an identity item by item, and others as a whole.
func (df *differ) slices(field, plain string, a, b reflect.Value) {
	if _, ok := reflect.TypeAssert[identified](reflect.Zero(a.Type().Elem())); !ok {
		df.change(field, listText(a), listText(b), classOf(df.classes, plain))
		return
	}
	from, to := byIdentity(a), byIdentity(b)
	for _, id := range keysOfBoth(from, to) {
		item := field + "[" + printable(id) + "]"
		x, inFrom := from[id]
		y, inTo := to[id]
		switch {
		case inFrom && inTo:
			df.values(item, plain, x, y)
		case inFrom:
			df.change(item, x.Interface().(identified).summary(), "", classOf(df.classes, plain))
		default:
			df.change(item, "", y.Interface().(identified).summary(), classOf(df.classes, plain))
		}
	}
}

func byIdentity(list reflect.Value) map[string]reflect.Value {
	out := make(map[string]reflect.Value, list.Len())
	for i := range list.Len() {
		out[list.Index(i).Interface().(identified).identity()] = list.Index(i)
	}
	return out
}

// initOrder shows in which order init containers run: what each one is says nothing of that.
func initOrder(inits []InitContainer) string {
	names := make([]string, len(inits))
	for i, ic := range inits {
		names[i] = ic.Name
	}
	return strings.Join(names, ", ")
}

func listText(list reflect.Value) string {
	if list.Len() == 0 {
		return ""
	}
	b, err := json.Marshal(list.Interface())
	if err != nil {
		return fmt.Sprint(list.Interface())
	}
	return string(b)
}

// asText returns the text of a value that is compared as one.
func asText(v reflect.Value) (string, bool) {
	if v.Kind() == reflect.Pointer {
		return "", false
	}
	switch x := v.Interface().(type) {
	case EnvValue:
		return x.summary(), true
	case VolumeSource:
		return x.summary(), true
	case OnChange:
		return strings.TrimSpace(x.Action + " " + x.Signal), true
	case Script:
		switch {
		case x.Inline != "":
			return "inline " + shortDigest([]byte(x.Inline)), true
		case x.File != "":
			return x.File + " " + shortDigest(x.Content), true
		}
		return "", true
	case SeccompProfile:
		if x.Type != ProfileLocalhost {
			return string(x.Type), true
		}
		return string(x.Type) + " " + printable(x.LocalhostProfile) + " " + shortDigest(x.Content), true
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		return string(b), err == nil
	}
	if v.Kind() == reflect.String {
		return printable(v.String()), true
	}
	return "", false
}

func (df *differ) configs(from, to Workload) {
	show := func(files ConfigData, key string) string {
		if b, ok := files[key]; ok {
			return shortDigest(b)
		}
		return ""
	}
	for _, name := range keysOfBoth(from.Configs, to.Configs) {
		a, b := from.Configs[name], to.Configs[name]
		for _, key := range keysOfBoth(a, b) {
			df.change(keyed("config["+name+"]", key), show(a, key), show(b, key), stronger(configClass(from.Spec, name, key), configClass(to.Spec, name, key)))
		}
	}
}

func (df *differ) secrets(from, to Workload) {
	for _, name := range keysOfBoth(from.Secrets, to.Secrets) {
		df.change("secret["+name+"].fromDirectory", printable(from.Secrets[name].FromDirectory), printable(to.Secrets[name].FromDirectory), ClassReplace)
	}
}

func shortDigest(b []byte) string { return contentDigest(b)[:len("sha256:")+12] }
