package image

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/runtime"
	"reconciler/runtime/image/imagetest"
)

// tenLayers is an image of ten layers, each with 200 files of 16 KiB that compress by about half: 31 MiB unpacked.
func tenLayers(b *testing.B) (img v1.Image, size int64) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var layers []v1.Layer
	for l := range 10 {
		files := []file{{Name: fmt.Sprintf("dir%d", l), Type: tar.TypeDir}}
		for f := range 200 {
			body := make([]byte, 16<<10)
			for i := 0; i < len(body)/2; i++ {
				body[i] = byte(r.Uint32())
			}
			files = append(files, file{Name: fmt.Sprintf("dir%d/file%d", l, f), Body: string(body)})
			size += int64(len(body))
		}
		layers = append(layers, imagetest.Layer(b, imagetest.Tar(files...)))
	}
	return imagetest.Image(b, v1.Config{}, layers...), size
}

func BenchmarkPullTenLayers(b *testing.B) {
	reg := newRegistry(b)
	img, size := tenLayers(b)
	ref := reg.host + "/ten:1"
	imagetest.Push(b, ref, img)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s := newStore(b)
		b.StartTimer()
		ensure(b, s, ref)
	}
}

func BenchmarkUnpackTenLayers(b *testing.B) {
	reg := newRegistry(b)
	img, size := tenLayers(b)
	ref := reg.host + "/ten:1"
	imagetest.Push(b, ref, img)
	s := newStore(b)
	found := ensure(b, s, ref)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for _, l := range found.Layers {
			if err := os.RemoveAll(filepath.Dir(l)); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if _, err := s.Ensure(b.Context(), Request{Ref: ref, Policy: runtime.PullNever}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(10*200*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// BenchmarkFound is what Prepare costs where everything is here.
func BenchmarkFound(b *testing.B) {
	reg := newRegistry(b)
	img, _ := tenLayers(b)
	ref := reg.host + "/ten:1"
	imagetest.Push(b, ref, img)
	s := newStore(b)
	ensure(b, s, ref)
	b.ReportAllocs()
	for b.Loop() {
		ensure(b, s, ref)
	}
}

// BenchmarkFoundCapture is what each start of a Job with a capture costs, where many were captured.
func BenchmarkFoundCapture(b *testing.B) {
	s := newStore(b, allowing("/usr", "/bin"))
	take := func(key string) {
		if _, err := s.Capture(b.Context(), same("/bin/sh"), key); err != nil {
			b.Fatal(err)
		}
	}
	for n := range 50 {
		take(fmt.Sprint(n))
	}
	b.ReportAllocs()
	for b.Loop() {
		take("25")
	}
}

func BenchmarkCapture(b *testing.B) {
	s := newStore(b, allowing("/usr", "/bin"))
	n := 0
	for b.Loop() {
		n++
		if _, err := s.Capture(b.Context(), same("/bin/sh", "/bin/ls", "/usr/bin/env"), fmt.Sprint(n)); err != nil {
			b.Fatal(err)
		}
	}
}
