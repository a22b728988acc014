package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// envName returns the variable that stands for a flag: RECONCILER_STATE_DIR for --state-dir.
func envName(flag string) string {
	return "RECONCILER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment sets every flag of cmd that the command line does not set: from its variable, else from the config
// file, else it keeps its default.
func (a *app) fromEnvironment(cmd *cobra.Command) error {
	flags := cmd.Flags()
	if err := a.fromVariables(flags); err != nil {
		return err
	}
	if a.set.config == "" {
		return nil
	}
	values, err := readConfig(a.set.config, commonFlags())
	if err != nil {
		return err
	}
	for _, v := range values {
		flag := flags.Lookup(v.flag)
		if flag == nil || flag.Changed { // another verb's flag, or set nearer to the user
			continue
		}
		if len(v.values) > 1 && !repeatable(flag) {
			return fmt.Errorf("%s:%d: %s: want one value, not %d", a.set.config, v.line, v.flag, len(v.values))
		}
		for _, text := range v.values {
			if err := flags.Set(v.flag, text); err != nil {
				return fmt.Errorf("%s:%d: %s: %s", a.set.config, v.line, v.flag, flagProblem(err))
			}
		}
	}
	return nil
}

// repeatable reports whether a flag gathers its values; any other one keeps the last.
func repeatable(flag *pflag.Flag) bool {
	switch flag.Value.Type() {
	case "stringSlice", "stringToString":
		return true
	default:
		return false
	}
}

// fromVariables sets the flags that have a variable and are not on the command line.
func (a *app) fromVariables(flags *pflag.FlagSet) error {
	var failed error
	flags.VisitAll(func(flag *pflag.Flag) {
		value := a.getenv(envName(flag.Name))
		if flag.Changed || value == "" || flag.Name == "help" || failed != nil {
			return
		}
		if err := flags.Set(flag.Name, value); err != nil {
			failed = fmt.Errorf("%s=%q: %s", envName(flag.Name), value, flagProblem(err))
		}
	})
	return failed
}

// flagProblem cuts what pflag says in front of why a value is wrong: the caller names the place better.
func flagProblem(err error) string {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err.Error()
	}
	switch invalid.GetFlag().Value.Type() {
	case "int":
		return "not a whole number"
	case "bool":
		return "neither true nor false"
	case "duration":
		return "not a duration, such as 30s, 5m or 1h"
	default:
		return errors.Unwrap(invalid).Error()
	}
}

// configValue is one line of a config file.
type configValue struct {
	flag   string
	values []string // more than one for a flag that may be repeated
	line   int
}

// commonFlags returns the names of the flags that a config file may set, those that matter most first: those of the agent,
// which other verbs share.
func commonFlags() []string {
	var s settings
	flags := pflag.NewFlagSet("config", pflag.ContinueOnError)
	flags.SortFlags = false
	s.addAll(flags)
	s.addGlobal(flags)
	var names []string
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "config" {
			names = append(names, flag.Name)
		}
	})
	return names
}

// readConfig reads a YAML mapping of flags to values, strictly: what is not known is refused with its line.
func readConfig(file string, known []string) ([]configValue, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, withHint(fmt.Errorf("read config: %w", err), "name another file with --config, or leave it out")
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(content))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want a mapping of flags to values, such as \"repo: https://git.example.com/fleet\"", file, root.Line)
	}
	var values []configValue
	seen := map[string]int{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		name := strings.TrimPrefix(key.Value, "--")
		if !slices.Contains(known, name) {
			problem := fmt.Sprintf("%s:%d: %s: no such flag", file, key.Line, key.Value)
			if close := nearest(name, known); close != "" {
				problem += fmt.Sprintf(": did you mean %q?", close)
			}
			return nil, errors.New(problem)
		}
		if first, again := seen[name]; again {
			return nil, fmt.Errorf("%s:%d: %s: set on line %d already", file, key.Line, name, first)
		}
		seen[name] = key.Line
		texts, err := flagTexts(value)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", file, value.Line, name, err)
		}
		values = append(values, configValue{flag: name, values: texts, line: key.Line})
	}
	return values, nil
}

// flagTexts returns a YAML value as the texts that one would write on the command line, one for each repetition.
func flagTexts(value *yaml.Node) ([]string, error) {
	switch value.Kind {
	case yaml.ScalarNode:
		return []string{value.Value}, nil
	case yaml.SequenceNode:
		var texts []string
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return nil, errors.New("want a list of plain values")
			}
			texts = append(texts, item.Value)
		}
		return texts, nil
	case yaml.MappingNode:
		var texts []string
		for i := 0; i < len(value.Content); i += 2 {
			if value.Content[i+1].Kind != yaml.ScalarNode {
				return nil, errors.New("want a mapping to plain values")
			}
			texts = append(texts, value.Content[i].Value+"="+value.Content[i+1].Value)
		}
		return texts, nil
	default:
		return nil, errors.New("want a plain value, a list or a mapping")
	}
}
