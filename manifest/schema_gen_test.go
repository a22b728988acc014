package manifest

import (
	"encoding"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write schema.json and the golden files anew")

// TestSchemaIsCurrent makes the schema from the types and compares it with the one that is kept.
func TestSchemaIsCurrent(t *testing.T) {
	got, err := json.MarshalIndent(newSchemaMaker(t).root(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("schema.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(got) != string(Schema()) {
		t.Error("schema.json is not what the types say: run go test ./manifest -run TestSchemaIsCurrent -update")
	}
}

type object = map[string]any

// schemaMaker writes JSON Schema of the types that the decoder fills.
type schemaMaker struct {
	types       typeCache
	docs        map[string]string // "Type.Field" to its comment
	definitions object
}

func newSchemaMaker(t *testing.T) *schemaMaker {
	t.Helper()
	m := &schemaMaker{types: make(typeCache), docs: make(map[string]string), definitions: make(object)}
	for _, name := range []string{"spec.go", "spec_fields.go", "spec_life.go", "documents.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range st.Fields.List {
					for _, id := range field.Names {
						m.docs[spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
					}
				}
			}
			return true
		})
	}
	return m
}

func (m *schemaMaker) root() object {
	var rules []any
	for _, k := range []struct {
		kind string
		doc  any
	}{
		{"Container", workloadDocument{}},
		{"Job", workloadDocument{}},
		{"CronJob", workloadDocument{}},
		{"Config", configDocument{}},
		{"Secret", secretDocument{}},
		{"Node", nodeDocument{}},
	} {
		def := m.structure(reflect.TypeOf(k.doc))
		props := def["properties"].(object)
		props["apiVersion"] = object{"const": APIVersion}
		props["kind"] = object{"const": k.kind}
		if _, ok := k.doc.(workloadDocument); ok {
			props["spec"] = m.workloadSpec(Kind(k.kind))
		}
		m.definitions[k.kind] = def
		rules = append(rules, object{
			"if":   object{"properties": object{"kind": object{"const": k.kind}}, "required": []string{"kind"}},
			"then": object{"$ref": "#/definitions/" + k.kind},
		})
	}
	return object{
		"$schema":     "http://json-schema.org/draft-07/schema#",
		"title":       "reconciler manifest",
		"type":        "object",
		"required":    []string{"apiVersion", "kind", "metadata"},
		"properties":  object{"apiVersion": object{"const": APIVersion}, "kind": object{"enum": kinds()}, "metadata": object{"type": "object"}},
		"allOf":       rules,
		"definitions": m.definitions,
	}
}

// workloadSpec is the spec of one kind: the fields of other kinds are left out.
func (m *schemaMaker) workloadSpec(kind Kind) object {
	out := m.structure(reflect.TypeFor[workloadSpec]())
	props := out["properties"].(object)
	for name := range props {
		if kinds := fieldKinds(m.types, name); kinds != nil && !slices.Contains(kinds, kind) {
			delete(props, name)
		}
	}
	return out
}

func (m *schemaMaker) ref(t reflect.Type) object {
	if _, ok := m.definitions[t.Name()]; !ok {
		m.definitions[t.Name()] = object{} // for recursion
		m.definitions[t.Name()] = m.structure(t)
	}
	return object{"$ref": "#/definitions/" + t.Name()}
}

func (m *schemaMaker) structure(t reflect.Type) object {
	props := make(object)
	out := object{"type": "object", "additionalProperties": false, "properties": props}
	var required []string
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "" || name == "-" || f.Tag.Get("manifest") == "-" {
			continue
		}
		prop := m.value(f.Type, t.Name()+"."+f.Name)
		owner := t
		for _, i := range f.Index[:len(f.Index)-1] {
			owner = owner.Field(i).Type
		}
		if doc := m.docs[owner.Name()+"."+f.Name]; doc != "" {
			if prop["$ref"] != nil { // in draft-07 nothing beside a $ref counts
				prop = object{"allOf": []any{prop}}
			}
			prop["description"] = doc
		}
		props[name] = prop
		if options == "" || slices.Contains([]string{"Mount.path", "Port.containerPort"}, t.Name()+"."+name) {
			required = append(required, name)
		}
	}
	if required != nil {
		out["required"] = required
	}
	return out
}

// text is what the decoder takes for a text: any scalar.
func text() object { return object{"type": []string{"string", "number", "boolean"}} }

func (m *schemaMaker) value(t reflect.Type, field string) object {
	switch t {
	case reflect.TypeFor[rawNode]():
		return m.ref(reflect.TypeFor[Spec]())
	case reflect.TypeFor[Strings]():
		return object{"anyOf": []any{text(), object{"type": "array", "items": text()}}}
	case reflect.TypeFor[EnvValue](), reflect.TypeFor[CapturePath](), reflect.TypeFor[VolumeSource](), reflect.TypeFor[Dependency]():
		return object{"anyOf": []any{text(), m.ref(t)}}
	case reflect.TypeFor[OnChange]():
		return object{"anyOf": []any{object{"enum": []string{OnChangeRestart, OnChangeNone}}, m.ref(t)}}
	case reflect.TypeFor[PortRef](), reflect.TypeFor[UserRef]():
		return object{"type": []string{"string", "integer"}}
	case reflect.TypeFor[Network]():
		return object{"type": "string", "pattern": "^(bridge|host|none|container:.+)$"}
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return object{"type": []string{"string", "number"}}
	}
	if w, ok := reflect.TypeAssert[worder](reflect.Zero(t)); ok {
		return object{"enum": w.words()}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return m.value(t.Elem(), field)
	case reflect.String:
		return text()
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int64:
		return object{"type": "integer"}
	case reflect.Slice:
		return object{"type": "array", "items": m.value(t.Elem(), field)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": m.value(t.Elem(), field)}
	case reflect.Struct:
		return m.ref(t)
	default:
		panic("no schema for " + field)
	}
}
