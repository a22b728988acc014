// Package source is where desired state comes from: a branch of a Git repository, or a plain directory. It says which
// revision is the newest, and hands out the files of a revision as an fs.FS.
//
// # Words
//
// A remote source (https, http, ssh) has a bare clone, StateDir/repo.git, which is ours alone: it holds one branch, no
// tags, no work tree, and is made again when it is damaged or belongs to another URL or branch. It begins with depth 1
// and grows by what each later fetch brings; the whole history is fetched only when Descends cannot answer without it.
// A local source (a bare repository, file:// URL, DIR/.git) is read where it is, through go-git's storage: no git
// program is run, nothing is copied, nothing is written. A directory source is any other directory; its revision is
// "dir:" and the SHA-256 of its names, modes and content, and the files of a revision are those that were hashed. A
// work tree given by its plain path is a directory source too: its files count as they are on disk, committed or not
// (.git is left out). To follow its commits give DIR/.git or file://DIR.
//
// # Credentials
//
// All are files, read at every use, so that they can be replaced while the agent runs. TokenFile holds one line: a
// token, USER:PASSWORD, or "Bearer TOKEN". A token is sent as the password of basic authentication, which the usual
// Git hosts expect, with Username, the user of the URL, or "x-access-token" as the user. Credentials are refused over
// http (not https) to another machine, and never follow a redirect to another host. With ssh the key is SSHKey, or
// those of ~/.ssh/id_ed25519, id_ecdsa and id_rsa that exist; host keys are those of KnownHosts, or of
// ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts, with the @cert-authority and @revoked lines of ssh. A host key that is
// not there, or is another, is an error, always.
// Neither an ssh agent nor ~/.ssh/config is used: an agent that starts at boot must not depend on a session.
//
// # Limits
//
// Every network operation has a time limit, every pack a least pace, and every answer of a server a size limit. Files
// above MaxReadFile are only streamed. Symbolic links are followed inside the tree and refused where they leave it. A
// submodule is an empty directory, as in a clone without its submodules; what is below it is ErrSubmodule.
//
// The package must not know manifests, plans or the runtime. Start reading at Source.Fetch; remote.go is the clone,
// tree.go the fs.FS, directory.go the plain directory. Package sourcetest has real servers for tests.
package source
