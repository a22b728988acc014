package source_test

import (
	"fmt"
	"io/fs"
	"testing"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// The figures of the Git section of the design: 2,000 files, read whole; and a poll with nothing new.
func BenchmarkSource(b *testing.B) {
	r := sourcetest.NewRepo(b)
	files := sourcetest.Files{}
	for i := range 2000 {
		files[fmt.Sprintf("apps/%02d/%04d.yaml", i%50, i)] = fmt.Sprintf("name: app-%d\n%0900d\n", i, i)
	}
	r.Commit("many", files)
	for i := range 100 {
		r.Commit("more", sourcetest.Files{fmt.Sprintf("apps/%02d/%04d.yaml", i%50, i): fmt.Sprint("changed ", i)})
	}
	r.Push()
	http := sourcetest.GitHTTP(b, r.Root, sourcetest.HTTPOptions{}).Repo("fleet.git")
	for name, url := range map[string]string{"http": http, "local": r.Bare} {
		s, err := source.Open(source.Config{URL: url, StateDir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		rev, err := s.Fetch(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/nothing new", func(b *testing.B) {
			for b.Loop() {
				if _, err = s.Fetch(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, cold := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/read 2000 files/cold=%v", name, cold), func(b *testing.B) {
				b.ReportAllocs()
				dir := b.TempDir()
				for b.Loop() {
					from := s
					if cold {
						b.StopTimer()
						if from, err = source.Open(source.Config{URL: url, StateDir: dir}); err != nil {
							b.Fatal(err)
						}
						if _, err = from.Fetch(b.Context()); err != nil {
							b.Fatal(err)
						}
						b.StartTimer()
					}
					readAll(b, from, rev.Commit)
				}
			})
		}
		b.Run(name+"/clone and read head", func(b *testing.B) {
			for b.Loop() {
				from, err := source.Open(source.Config{URL: url, StateDir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := from.Fetch(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func readAll(b *testing.B, s *source.Source, commit string) {
	b.Helper()
	fsys, err := s.Tree(b.Context(), commit)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		_, err = fs.ReadFile(fsys, path)
		return err
	})
	if err != nil || n != 2000 {
		b.Fatal(n, err)
	}
}
