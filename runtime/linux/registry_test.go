package linux_test

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/runtime"
	"reconciler/runtime/image/imagetest"
)

func TestRegistryImageRunsAsItSays(t *testing.T) {
	e := newEnv(t)
	registry := imagetest.Registry(t, imagetest.RegistryOptions{})
	ref := registry + "/shop/box:1"
	digest := imagetest.Push(t, ref, imagetest.Busybox(t, v1.Config{
		Entrypoint: []string{"/bin/sh", "-c", "id -u; id -g; pwd; echo $GREETING $0"}, Cmd: []string{"cmd"},
		User: "bob", WorkingDir: "/work", Env: []string{"GREETING=hello"}, StopSignal: "SIGUSR1",
	}, imagetest.File{Name: "etc/passwd", Body: "bob:x:500:501::/home/bob:/bin/sh\n"}))
	spec := e.spec("web")
	spec.Image = &runtime.Image{Ref: ref, PullPolicy: runtime.PullAlways}
	if now, err := e.Resolve(t.Context(), *spec.Image, nil); err != nil || now != digest {
		t.Errorf("resolved to %q, %v; pushed %q", now, err, digest)
	}
	out, st := e.run(spec)
	if out != "500\n501\n/work\nhello cmd\n" || st.ImageDigest != digest {
		t.Errorf("output %q, digest %q", out, st.ImageDigest)
	}
	spec.Args = []string{"args"}
	out, _ = e.run(spec)
	e.expect(out, "hello args\n")

	spec.Image = &runtime.Image{Ref: registry + "/shop/none:1"}
	_, err := e.prepare(spec)
	if runtime.ReasonOf(err) != runtime.ReasonErrImagePull || runtime.IsPermanent(err) {
		t.Errorf("an image that is not there: %v", err)
	}
}
