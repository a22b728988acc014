package main

import (
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/runtime/rootfs"
)

func newVolume(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "volume",
		Short:       "The volumes of this server: ls, rm",
		Example:     "  reconciler volume ls\n  reconciler volume rm shop/web-data",
		Args:        cobra.ArbitraryArgs,
		RunE:        runGroup,
		Annotations: map[string]string{exitAnnotation: "0 done, 1 not"},
	}
	cmd.AddCommand(newVolumeLs(a), newVolumeRm(a))
	return cmd
}

func newVolumeLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short:       "List the volumes and who uses them; an orphan is used by nobody",
		Example:     "  reconciler volume ls -o wide",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 listed, 1 not"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			rt, err := a.openRuntime("volume ls", quiet())
			if err != nil {
				return err
			}
			list, err := rt.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			if list == nil {
				list = []rootfs.Volume{}
			}
			return a.print(list, func() error {
				head := []string{"NAMESPACE", "NAME", "OWNER", "SIZE", "USED BY", "AGE"}
				if a.set.output == "wide" {
					head = append(head, "PATH")
				}
				t := a.newTable(head...)
				now := time.Now()
				for _, v := range list {
					owner, used := v.Owner, strings.Join(v.UsedBy, ",")
					if v.Shared {
						owner = "shared"
					}
					if v.Orphan {
						used = "nobody (orphan)"
					}
					size := "" // as much as the disk
					if v.Size > 0 {
						size = manifest.Bytes(v.Size).String()
					}
					row := []string{v.Namespace, v.Name, owner, size, used, age(now, v.CreatedAt)}
					if a.set.output == "wide" {
						row = append(row, v.Path)
					}
					t.row(row...)
				}
				return t.write()
			})
		},
	}
}

func newVolumeRm(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rm NAME…", Aliases: []string{"remove"},
		Short:       "Remove volumes and all that is in them",
		Example:     "  reconciler volume rm shop/web-data",
		Args:        argsError(cobra.MinimumNArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 removed, 1 not, because a container uses it for instance"},
	}
	namespace := namespaceFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rt, err := a.openRuntime("volume rm", quiet())
		if err != nil {
			return err
		}
		removed := []done{}
		var failed error
		for _, arg := range args {
			var name manifest.Name
			if name, failed = manifest.ParseName(arg, *namespace); failed == nil {
				failed = rt.RemoveVolume(cmd.Context(), name.Namespace, name.Name)
			}
			if failed != nil {
				break
			}
			removed = append(removed, done{Done: "removed", What: name.Short()})
		}
		err = a.print(removed, func() error {
			for _, r := range removed {
				a.outln(r.Done, r.What)
			}
			return nil
		})
		return errors.Join(failed, err)
	}
	return cmd
}
