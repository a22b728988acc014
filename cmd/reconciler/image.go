package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"reconciler/runtime"
	"reconciler/runtime/image"
)

func newImage(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "The images of this server: ls, pull, inspect, prune, capture, load, save",
		Example: `  reconciler image ls
  reconciler image pull registry.example.com/shop/web:1.4
  reconciler image save web.tar registry.example.com/shop/web:1.4`,
		Args:        cobra.ArbitraryArgs,
		RunE:        runGroup,
		Annotations: map[string]string{exitAnnotation: "0 done, 1 not"},
	}
	cmd.AddCommand(newImageLs(a), newImagePull(a), newImageInspect(a), newImagePrune(a), newImageCapture(a), newImageLoad(a), newImageSave(a))
	return cmd
}

// store opens the images of this instance.
func (a *app) store(verb string) (*image.Store, error) {
	rt, err := a.openRuntime("image "+verb, quiet())
	if err != nil {
		return nil, err
	}
	return rt.Images(), nil
}

func newImageLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short:       "List the images that are here",
		Example:     "  reconciler image ls -o wide",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 listed, 1 not"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.store("ls")
			if err != nil {
				return err
			}
			list, err := store.List(cmd.Context())
			if err != nil {
				return err
			}
			return a.printImages(list)
		},
	}
}

func (a *app) printImages(list []image.Image) error {
	if list == nil {
		list = []image.Image{}
	}
	return a.print(list, func() error {
		head := []string{"IMAGE", "DIGEST", "PLATFORM", "SIZE", "LAST USED"}
		if a.set.output == "wide" {
			head = append(head, "UNPACKED", "LAYERS", "CREATED")
		}
		t := a.newTable(head...)
		now := time.Now()
		for _, i := range list {
			digest := shortDigest(i.Digest)
			if a.set.output == "wide" {
				digest = i.Digest
			}
			row := []string{i.Ref, digest, platformText(i.Platform), size(i.Size), age(now, i.LastUsed)}
			if a.set.output == "wide" {
				row = append(row, size(i.Unpacked), fmt.Sprint(len(i.Layers)), age(now, i.Created))
			}
			t.row(row...)
		}
		return t.write()
	})
}

func platformText(p runtime.Platform) string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

func newImagePull(a *app) *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use:         "pull IMAGE",
		Short:       "Bring an image here and unpack it",
		Long:        "Brings an image here and unpacks it. IMAGE is a registry reference, or oci:, oci-archive: or docker-archive: with a path\nbelow the present directory.",
		Example:     `  reconciler image pull registry.example.com/shop/web:1.4 --registry-auth ~/.docker/config.json`,
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 it is here, 1 it is not"},
	}
	a.set.addRegistry(cmd.Flags())
	cmd.Flags().StringVar(&policy, "policy", string(runtime.PullAlways), "`POLICY`: Always asks the registry, IfNotPresent only for what is not here")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if p := runtime.PullPolicy(policy); p != runtime.PullAlways && p != runtime.PullIfNotPresent {
			return fmt.Errorf("--policy %q: want Always or IfNotPresent", policy)
		}
		store, err := a.store("pull")
		if err != nil {
			return err
		}
		here, err := os.OpenRoot(".")
		if err != nil {
			return fmt.Errorf("open the present directory: %w", err)
		}
		defer func() { _ = here.Close() }() // read only
		bar := a.newProgress()
		img, err := store.Ensure(cmd.Context(), image.Request{
			Ref: args[0], Policy: runtime.PullPolicy(policy), Tree: here.FS(), Progress: bar.report,
		})
		bar.done()
		if err != nil {
			return err
		}
		return a.printImages([]image.Image{img})
	}
	return cmd
}

func newImageInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "inspect IMAGE",
		Short:       "Print all that is known of an image",
		Long:        "Prints all that is known of an image as YAML, or as JSON with -o json. IMAGE is a reference, a digest, or 12 or more digits of one.",
		Example:     "  reconciler image inspect registry.example.com/shop/web:1.4 -o json",
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 printed, 1 no such image"},
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.store("inspect")
			if err != nil {
				return err
			}
			img, err := store.Inspect(cmd.Context(), args[0])
			if err != nil {
				return noImage(err)
			}
			return a.print(img, func() error { return writeYAML(a.out, img) })
		},
	}
}

// noImage adds to an error how to find an image that is here, where the one asked for is not.
func noImage(err error) error {
	if errors.Is(err, image.ErrNotFound) {
		return withHint(err, "`reconciler image ls` lists what is here")
	}
	return err
}

func newImagePrune(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "prune",
		Short:       "Remove every image that no container needs",
		Example:     "  reconciler image prune",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 done, 1 not"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			rt, err := a.openRuntime("image prune", quiet())
			if err != nil {
				return err
			}
			keep, err := a.keptImages()
			if err != nil {
				return err
			}
			gone, err := rt.PruneImages(cmd.Context(), keep)
			if err != nil {
				return err
			}
			return a.print(gone, func() error {
				for _, i := range gone.Images {
					a.outln("removed", firstOf(i.Ref, i.Digest))
				}
				a.outf("%s, %s, %s freed\n", count(len(gone.Images), "image"), count(gone.Layers, "layer"), size(gone.Bytes))
				return nil
			})
		},
	}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func newImageCapture(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "capture PATH…",
		Short: "Make an image from this server's own files",
		Long: `Makes an image from copies of this server's files, with the shared libraries that programs among them load, as the
capture of a manifest does. PATH may be FROM:TO where it is to be elsewhere inside.`,
		Example:     "  reconciler image capture /usr/bin/python3 /usr/lib/python3 --allow-capture /usr",
		Args:        argsError(cobra.MinimumNArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 made, 1 not"},
	}
	cmd.Flags().StringSliceVar(&a.set.allowCapture, "allow-capture", nil, "path `PREFIX` below which files may be captured (may be repeated)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var paths []runtime.Path
		for _, arg := range args {
			from, to, renamed := strings.Cut(arg, ":")
			if !renamed {
				to = from
			}
			if !filepath.IsAbs(from) || !filepath.IsAbs(to) {
				return withHint(fmt.Errorf("capture %s: not an absolute path", arg), "write it from the root, such as /usr/bin/%s", filepath.Base(from))
			}
			paths = append(paths, runtime.Path{From: from, To: to})
		}
		store, err := a.store("capture")
		if err != nil {
			return err
		}
		// Asked for by hand means as the files are now: the time makes a key of its own.
		asked, err := json.Marshal(struct {
			Paths []runtime.Path
			At    time.Time
		}{paths, time.Now()})
		if err != nil {
			return err
		}
		sum := sha256.Sum256(asked)
		img, err := store.Capture(cmd.Context(), paths, hex.EncodeToString(sum[:]))
		if runtime.ReasonOf(err) == runtime.ReasonNotAllowed {
			return withHint(err, "name a directory that it is below with --allow-capture, such as /usr")
		}
		if err != nil {
			return err
		}
		return a.printImages([]image.Image{img})
	}
	return cmd
}

func newImageLoad(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "load FILE",
		Short:       "Take in the images of an oci-archive or docker-archive",
		Example:     "  reconciler image load web.tar\n  ssh builder cat web.tar.gz | reconciler image load -",
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 they are here, 1 not"},
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.store("load")
			if err != nil {
				return err
			}
			in := a.in
			if args[0] != "-" {
				file, openErr := os.Open(args[0])
				if openErr != nil {
					return fmt.Errorf("load images: %w", openErr)
				}
				defer func() { _ = file.Close() }() // read only
				in = file
			}
			list, err := store.Load(cmd.Context(), in)
			if err != nil && hintOf(err) == "" {
				return withHint(fmt.Errorf("%s: %w", args[0], err), "give it a file that `docker save`, `skopeo copy` or `reconciler image save` wrote")
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return a.printImages(list)
		},
	}
}

func newImageSave(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "save FILE IMAGE",
		Short:       "Write an image as an oci-archive",
		Example:     "  reconciler image save web.tar registry.example.com/shop/web:1.4\n  reconciler image save - registry.example.com/shop/web:1.4 | gzip > web.tar.gz",
		Args:        argsError(cobra.ExactArgs(2)),
		Annotations: map[string]string{exitAnnotation: "0 written, 1 not"},
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.store("save")
			if err != nil {
				return err
			}
			if _, err := store.Inspect(cmd.Context(), args[1]); err != nil {
				return noImage(err)
			}
			if args[0] == "-" {
				return store.Save(cmd.Context(), args[1], a.out)
			}
			return writeWhole(args[0], func(w io.Writer) error { return store.Save(cmd.Context(), args[1], w) })
		},
	}
}

// writeWhole writes a file that appears under its name only when it is complete.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	if err := errors.Join(write(file), file.Chmod(0o644), file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(file.Name(), path)
}
