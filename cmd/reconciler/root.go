package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is one run of the program: its streams and the flags of its command line.
type app struct {
	streams

	set settings
}

// The annotations that a verb may carry.
const (
	exitAnnotation = "exit" // the EXIT STATUS section of its help
	failAnnotation = "fail" // its exit status where it fails, if that is not 1
	// markdownAnnotation: -o markdown is one of its formats.
	markdownAnnotation = "markdown"
	bareAnnotation     = "bare" // it needs neither instance nor node: nothing of settings.resolve may stop it
)

// newRoot returns the command line.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "reconciler",
		Short: "Keeps this server's containers the way a Git repository says",
		Long: `reconciler keeps one server's containers the way a Git repository says they should be.
Each server runs this program with ` + "`reconciler agent`" + `; a push is a deployment, a revert is a rollback.

Every flag can also be set by a variable (RECONCILER_STATE_DIR for --state-dir) and, those that several
verbs share, in a file named by --config. The command line comes first, then the variable, then the file.`,
		Example: `  reconciler agent --repo https://git.example.com/fleet.git
  reconciler ps
  reconciler validate .`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{exitAnnotation: "0 if all went well, 1 if not; verbs that say more have it in their help"},
		RunE:          runGroup,
		Args:          cobra.ArbitraryArgs,
	}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.fromEnvironment(cmd); err != nil {
			return err
		}
		known := formats()
		if cmd.Annotations[markdownAnnotation] != "" {
			known = append(known, "markdown")
		}
		if !slices.Contains(known, a.set.output) {
			return fmt.Errorf("--output %q: want one of %s", a.set.output, strings.Join(known, ", "))
		}
		if cmd.Annotations[bareAnnotation] != "" {
			return nil
		}
		return a.set.resolve()
	}
	root.SetIn(a.in)
	root.SetOut(a.out) // before the completion command is made, which takes it from here
	root.SetErr(a.err)
	a.set.addGlobal(root.PersistentFlags())
	root.SetFlagErrorFunc(flagError)
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "act", Title: "Act:"},
		&cobra.Group{ID: "check", Title: "Check before a push, with no server and no root:"},
		&cobra.Group{ID: "more", Title: "More:"},
	)
	root.SetHelpCommandGroupID("more")
	root.SetCompletionCommandGroupID("more")
	for group, verbs := range a.verbs() {
		for _, verb := range verbs {
			verb.GroupID = group
			root.AddCommand(verb)
		}
	}
	root.AddCommand(newSupervisor(a))
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Run, help.RunE = nil, runHelp
		help.Annotations = map[string]string{bareAnnotation: "yes", exitAnnotation: "0 printed, 1 no such command"}
	}
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.Args, completion.RunE = cobra.ArbitraryArgs, runGroup
		completion.Annotations = map[string]string{bareAnnotation: "yes", exitAnnotation: "0 printed, 1 no such shell"}
		for _, shell := range completion.Commands() {
			shell.Annotations = map[string]string{bareAnnotation: "yes", exitAnnotation: "0"}
		}
	}
	return root
}

// verbs returns every command by group.
func (a *app) verbs() map[string][]*cobra.Command {
	return map[string][]*cobra.Command{
		"run":   {newAgent(a), newSync(a), newDown(a), newInstall(a)},
		"look":  {newStatus(a), newPs(a), newDescribe(a), newLogs(a), newExec(a), newPlan(a), newHistory(a), newEvents(a), newStats(a), newDoctor(a)},
		"act":   {newApprove(a), newRetry(a), newRestart(a), newSuspend(a), newResume(a), newImage(a), newVolume(a)},
		"check": {newValidate(a), newDiff(a), newSchema(a)},
		"more":  {newVersion(a)},
	}
}

// runGroup is what a command does that has only commands below it: help, or an error that names the nearest one.
func runGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
			known = append(known, c.SuggestFor...)
		}
	}
	err := fmt.Errorf("%s %s: no such command", cmd.CommandPath(), args[0])
	if close := nearest(args[0], known); close != "" {
		if c, _, found := cmd.Find([]string{close}); found == nil && c != cmd {
			close = c.Name()
		}
		return withHint(err, "did you mean `%s %s`?", cmd.CommandPath(), close)
	}
	return withHint(err, "`%s --help` lists them", cmd.CommandPath())
}

// runHelp prints the help of the command that args name.
func runHelp(cmd *cobra.Command, args []string) error {
	about, rest, err := cmd.Root().Find(args)
	if err != nil || len(rest) > 0 {
		if about == nil {
			about = cmd.Root()
		}
		return runGroup(about, append(rest, args...))
	}
	return about.Help()
}

// flagError says what is wrong with a flag, and which was meant.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := unknown.GetSpecifiedName()
		var known []string
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if !flag.Hidden {
				known = append(known, flag.Name)
			}
		})
		dashes := "--"
		if unknown.GetSpecifiedShortnames() != "" {
			dashes = "-"
		}
		wrong := fmt.Errorf("%s: no such flag %s%s", cmd.CommandPath(), dashes, name)
		if close := nearest(name, known); close != "" && len(name) > 1 {
			return withHint(wrong, "did you mean --%s?", close)
		}
		return withHint(wrong, "`%s --help` lists them", cmd.CommandPath())
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return fmt.Errorf("%s: --%s %q: %s", cmd.CommandPath(), invalid.GetFlag().Name, invalid.GetValue(), flagProblem(err))
	}
	return fmt.Errorf("%s: %w", cmd.CommandPath(), err)
}

// argsError says how the verb is used where one of cobra's rules for arguments refuses what was given.
func argsError(rule cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if rule(cmd, args) == nil {
			return nil
		}
		_, want, _ := strings.Cut(strings.ReplaceAll(cmd.Use, " [flags]", ""), " ")
		var err error
		switch {
		case want == "":
			err = fmt.Errorf("%s: wants no argument, but was given %s", cmd.CommandPath(), strings.Join(args, " "))
		case len(args) == 0:
			err = fmt.Errorf("%s: wants %s, but was given nothing", cmd.CommandPath(), want)
		default:
			err = fmt.Errorf("%s: wants %s, but was given %s", cmd.CommandPath(), want, strings.Join(args, " "))
		}
		return withHint(err, "usage: %s", cmd.UseLine())
	}
}

// logger returns the log of the long-running verbs, on stderr.
func (a *app) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.set.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", a.set.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch a.set.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(a.err, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.err, opts)), nil
	default:
		return nil, fmt.Errorf("--log-format %q: want text or json", a.set.logFormat)
	}
}

const helpTemplate = `{{with or .Long .Short}}{{. | trimTrailingWhitespaces}}

{{end}}{{.UsageString}}`

const usageTemplate = `USAGE
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}
{{- if .HasExample}}

EXAMPLE
{{.Example}}
{{- end}}
{{- if .HasAvailableSubCommands}}
{{- $all := .Commands}}
{{- if .Groups}}
{{- range $group := .Groups}}

{{.Title}}
{{- range $all}}{{if and (eq .GroupID $group.ID) (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{- end}}
{{- else}}

COMMANDS
{{- range $all}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{- end}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

FLAGS
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableInheritedFlags}}

FLAGS OF EVERY COMMAND
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- with index .Annotations "exit"}}

EXIT STATUS
  {{.}}
{{- end}}
`
