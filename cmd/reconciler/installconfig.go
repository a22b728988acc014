package main

import (
	"encoding/csv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// agentFlags calls fn with every flag that a configuration of the agent may set, in the order of its help.
func agentFlags(cmd *cobra.Command, fn func(*pflag.Flag)) {
	for _, name := range commonFlags() {
		switch name {
		case "output", "no-color", "instance": // of no use to a service, or on its command line
			continue
		}
		if flag := cmd.Flags().Lookup(name); flag != nil {
			fn(flag)
		}
	}
}

// changedFlags reports whether anything was given that a configuration would say.
func changedFlags(cmd *cobra.Command) bool {
	changed := false
	agentFlags(cmd, func(flag *pflag.Flag) { changed = changed || flag.Changed })
	return changed
}

// configFile is a configuration for the agent with every flag in it: set as given, else as a comment.
func configFile(cmd *cobra.Command, instance string) string {
	var b strings.Builder
	b.WriteString("# How `reconciler agent` runs on this server: flags of its command line, one a line. It is read when the agent starts.\n")
	if instance != defaultInstance {
		b.WriteString("# This is instance " + instance + ": `reconciler --instance " + instance + " ps`, and so on.\n")
	}
	agentFlags(cmd, func(flag *pflag.Flag) {
		_, usage := pflag.UnquoteUsage(flag)
		b.WriteString("\n# " + usage + "\n")
		line := flag.Name + ": " + yamlValue(flag) + "\n"
		if !flag.Changed {
			line = "# " + line
		}
		b.WriteString(line)
	})
	return b.String()
}

// yamlValue is the value of a flag, or its default, on one line of YAML.
func yamlValue(flag *pflag.Flag) string {
	text := flag.DefValue
	if flag.Changed {
		text = flag.Value.String()
	}
	var node yaml.Node
	var value any = text
	switch flag.Value.Type() {
	case "stringSlice":
		value = listOf(text)
	case "stringToString":
		pairs := map[string]string{}
		for _, pair := range listOf(text) {
			key, of, _ := strings.Cut(pair, "=")
			pairs[key] = of
		}
		value = pairs
	case "bool", "int":
		return text
	}
	if err := node.Encode(value); err != nil {
		return ""
	}
	node.Style = yaml.FlowStyle
	line, err := yaml.Marshal(&node)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(line))
}

// listOf returns the values of a flag that may be repeated, which pflag shows as [a,b] in the way of CSV.
func listOf(text string) []string {
	text = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if text == "" {
		return []string{}
	}
	values, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return []string{text}
	}
	return values
}
