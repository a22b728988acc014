package manifest

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

func compileSchema(t *testing.T) (*jsonschema.Schema, object) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err = c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s, doc.(object)
}

// TestSchemaTakesWhatTheDecoderTakes validates every manifest of the archives that have nothing wrong.
func TestSchemaTakesWhatTheDecoderTakes(t *testing.T) {
	s, _ := compileSchema(t)
	count := 0
	for _, name := range []string{"problems/accepted", "diffs/everything", "diffs/defaults", "diffs/limits"} {
		ar, err := txtar.ParseFile(filepath.FromSlash("testdata/" + name + ".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range ar.Files {
			if filepath.Ext(f.Name) != ".yaml" {
				continue
			}
			dec := yaml.NewDecoder(bytes.NewReader(f.Data))
			for {
				var doc any
				if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				count++
				if err := s.Validate(doc); err != nil {
					t.Errorf("%s: %s: %v", name, f.Name, err)
				}
			}
		}
	}
	if count < 10 {
		t.Errorf("only %d manifests were validated", count)
	}
}

// TestSchemaRefusesWhatTheDecoderRefuses puts a wrong thing in one place of a good manifest.
func TestSchemaRefusesWhatTheDecoderRefuses(t *testing.T) {
	s, _ := compileSchema(t)
	for _, bad := range []string{
		"{apiVersion: reconciler/v2, kind: Config, metadata: {name: a}}",
		"{apiVersion: reconciler/v1, kind: Pod, metadata: {name: a}}",
		"{apiVersion: reconciler/v1, kind: Config}",
		"{apiVersion: reconciler/v1, kind: Config, metadata: {}}",
		"{apiVersion: reconciler/v1, kind: Config, metadata: {name: a}, spec: {}}",
		"{apiVersion: reconciler/v1, kind: Node, metadata: {name: a, namespace: b}}",
		"{apiVersion: reconciler/v1, kind: Container, metadata: {name: a}, spec: {img: a}}",
		"{apiVersion: reconciler/v1, kind: Container, metadata: {name: a}, spec: {schedule: '@daily'}}",
		"{apiVersion: reconciler/v1, kind: Job, metadata: {name: a}, spec: {schedule: '@daily'}}",
		"{apiVersion: reconciler/v1, kind: CronJob, metadata: {name: a}, spec: {onNewNode: Run}}",
		"{apiVersion: reconciler/v1, kind: Container, metadata: {name: a}, spec: {image: a, args: b}}",
		"{apiVersion: reconciler/v1, kind: Container, metadata: {name: a}, spec: {image: a, restartPolicy: always}}",
		"{apiVersion: reconciler/v1, kind: Container, metadata: {name: a}, spec: {image: a, env: {A: {secrt: b}}}}",
		"{apiVersion: reconciler/v1, kind: Container, metadata: {name: a}, spec: {image: a, mounts: [{volume: b}]}}",
		"{apiVersion: reconciler/v1, kind: Container, metadata: {name: a}, spec: {image: a, overrides: [{spec: {img: a}}]}}",
		"{apiVersion: reconciler/v1, kind: Secret, metadata: {name: a}, spec: {}}",
	} {
		var doc any
		if err := yaml.Unmarshal([]byte(bad), &doc); err != nil {
			t.Fatal(err)
		}
		if s.Validate(doc) == nil {
			t.Errorf("the schema takes %s", bad)
		}
		if _, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(bad)}}, Revision{}, Node{Name: "a"}); err == nil {
			t.Errorf("the decoder takes %s", bad)
		}
	}
}

// TestSchemaHasEveryField walks the schema and asks the decoder whether each of its fields exists, and the other way
// round: the schema's tree of fields is the decoder's.
func TestSchemaHasEveryField(t *testing.T) {
	_, doc := compileSchema(t)
	definitions := doc["definitions"].(object)
	types := make(typeCache)
	for kind, typ := range map[string]reflect.Type{
		"Container": reflect.TypeFor[workloadDocument](), "Job": reflect.TypeFor[workloadDocument](), "CronJob": reflect.TypeFor[workloadDocument](),
		"Config": reflect.TypeFor[configDocument](), "Secret": reflect.TypeFor[secretDocument](), "Node": reflect.TypeFor[nodeDocument](),
		"Spec": reflect.TypeFor[Spec](), "Mount": reflect.TypeFor[Mount](), "SecurityContext": reflect.TypeFor[SecurityContext](),
		"Limits": reflect.TypeFor[Limits](), "Probe": reflect.TypeFor[Probe](), "Port": reflect.TypeFor[Port](), "InitContainer": reflect.TypeFor[InitContainer](),
		"override": reflect.TypeFor[override](), "EnvValue": reflect.TypeFor[EnvValue](), "nodeSpec": reflect.TypeFor[nodeSpec](),
	} {
		props := sortedKeys(definitions[kind].(object)["properties"].(object))
		names := slices.Sorted(slices.Values(types.of(typ).names))
		if !slices.Equal(props, names) {
			t.Errorf("%s: the schema has %v, the decoder %v", kind, props, names)
		}
	}
	for _, kind := range []Kind{KindContainer, KindJob, KindCronJob} {
		spec := definitions[string(kind)].(object)["properties"].(object)["spec"].(object)["properties"].(object)
		for name := range spec {
			d := "apiVersion: reconciler/v1\nkind: " + string(kind) + "\nmetadata: {name: a}\nspec: {" + name + ": null}\n"
			_, err := Load(fstest.MapFS{"a.yaml": {Data: []byte(d)}}, Revision{}, Node{Name: "n"})
			if err != nil && strings.Contains(err.Error(), "unknown field") {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}
