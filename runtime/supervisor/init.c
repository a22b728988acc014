// The tiny init that runs as process 1 of a container with "init: true": it starts the command, passes signals on to
// it, collects orphans, and ends as the command does.
//
// It is not part of this program. It is compiled into a section of its own, which initbinary.go copies into a static ELF
// file: this binary may be linked dynamically and could not run inside somebody's root file system. Therefore: no libc,
// no data, no relocations. Everything below is in the section, addresses itself relative to the program counter, and
// uses general registers only. A string literal would be data elsewhere: texts stand in the section through asm.

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns", "no-tree-vectorize", "no-jump-tables")
#endif

#define IN_SECTION __attribute__((section("rcinit"), used, noinline, visibility("hidden")))
#define INLINED static inline __attribute__((always_inline))
#define TEXT(name, text)                                  \
	__asm__(".pushsection rcinit,\"ax\"\n" #name ":\n"    \
	        ".asciz \"" text "\"\n.balign 16\n.popsection"); \
	extern const char name[] __attribute__((visibility("hidden")))

typedef long word;

#if defined(__x86_64__)
enum { SYS_rt_sigprocmask = 14, SYS_clone = 56, SYS_execve = 59, SYS_wait4 = 61, SYS_kill = 62, SYS_write = 1,
	SYS_exit_group = 231, SYS_rt_sigtimedwait = 128, SYS_setpgid = 109,
	SYS_close = 3 };

INLINED word call(word n, word a, word b, word c, word d, word e) {
	word ret;
	register word r10 __asm__("r10") = d;
	register word r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(ret) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
		: "rcx", "r11", "memory");
	return ret;
}

__asm__(".pushsection rcinit,\"ax\"\n.balign 16\n.globl rcinit_entry\n.hidden rcinit_entry\nrcinit_entry:\n"
	"xor %ebp, %ebp\nmov %rsp, %rdi\nand $-16, %rsp\ncall rcinit_main\nhlt\n.popsection");
#else
enum { SYS_rt_sigprocmask = 135, SYS_clone = 220, SYS_execve = 221, SYS_wait4 = 260, SYS_kill = 129, SYS_write = 64,
	SYS_exit_group = 94, SYS_rt_sigtimedwait = 137, SYS_setpgid = 154,
	SYS_close = 57 };

INLINED word call(word n, word a, word b, word c, word d, word e) {
	register word x8 __asm__("x8") = n;
	register word x0 __asm__("x0") = a;
	register word x1 __asm__("x1") = b;
	register word x2 __asm__("x2") = c;
	register word x3 __asm__("x3") = d;
	register word x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

__asm__(".pushsection rcinit,\"ax\"\n.balign 16\n.globl rcinit_entry\n.hidden rcinit_entry\nrcinit_entry:\n"
	"mov x29, #0\nmov x30, #0\nmov x0, sp\nbl rcinit_main\nbrk #0\n.popsection");
#endif

enum { SIGCHLD_ = 17, SIGTTIN_ = 21, SIGTTOU_ = 22, SIG_SETMASK_ = 2, WNOHANG_ = 1 };
enum { EINTR_ = 4, ENOENT_ = 2, EACCES_ = 13, ENOTDIR_ = 20, ENOEXEC_ = 8, PATH_MAX_ = 4096 };

TEXT(rcinit_t_name, "init: exec ");
TEXT(rcinit_t_noent, ": no such file or directory\\n");
TEXT(rcinit_t_path, ": executable file not found in $PATH\\n");
TEXT(rcinit_t_acces, ": permission denied\\n");
TEXT(rcinit_t_noexec, ": exec format error\\n");
TEXT(rcinit_t_other, ": cannot be executed\\n");
TEXT(rcinit_t_usage, "init: no command is given\\n");
TEXT(rcinit_t_fork, "init: cannot make a process\\n");
TEXT(rcinit_t_defpath, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");

IN_SECTION void rcinit_say(const char *s) {
	word n = 0;
	while (s[n]) {
		n++;
		__asm__ volatile("" ::: "memory"); // or the compiler makes a call of strlen of it
	}
	call(SYS_write, 2, (word)s, n, 0, 0);
}

IN_SECTION void rcinit_exit(word code) {
	for (;;)
		call(SYS_exit_group, code, 0, 0, 0, 0);
}

// Tries every directory of PATH, as execvp(3) does. It returns the error that says most.
IN_SECTION word rcinit_exec(char **argv, char **envp, const char **why) {
	char path[PATH_MAX_ + 1];
	const char *name = argv[0], *dirs = rcinit_t_defpath;
	word slash = 0, denied = 0;
	for (const char *p = name; *p; p++)
		slash |= *p == '/';
	if (slash || !*name) {
		word err = -call(SYS_execve, (word)name, (word)argv, (word)envp, 0, 0);
		*why = err == ENOENT_ || err == ENOTDIR_ ? rcinit_t_noent : err == EACCES_ ? rcinit_t_acces
			: err == ENOEXEC_ ? rcinit_t_noexec : rcinit_t_other;
		return err;
	}
	for (char **e = envp; *e; e++) {
		const char *v = *e;
		if (v[0] == 'P' && v[1] == 'A' && v[2] == 'T' && v[3] == 'H' && v[4] == '=')
			dirs = v + 5;
	}
	for (;;) {
		word n = 0;
		while (*dirs && *dirs != ':' && n < PATH_MAX_)
			path[n++] = *dirs++;
		if (n && n < PATH_MAX_)
			path[n++] = '/';
		for (const char *p = name; *p && n < PATH_MAX_; p++)
			path[n++] = *p;
		path[n] = 0;
		word err = -call(SYS_execve, (word)path, (word)argv, (word)envp, 0, 0);
		if (err == EACCES_) {
			denied = err;
		} else if (err != ENOENT_ && err != ENOTDIR_) {
			*why = err == ENOEXEC_ ? rcinit_t_noexec : rcinit_t_other;
			return err;
		}
		while (*dirs && *dirs != ':') // of an entry that is too long
			dirs++;
		if (!*dirs)
			break;
		dirs++;
	}
	*why = denied ? rcinit_t_acces : rcinit_t_path;
	return denied ? denied : ENOENT_;
}

IN_SECTION void rcinit_main(word *stack) {
	word argc = stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
	unsigned long all = ~0ul, before = 0;
	const char *why = 0;
	argv++;
	if (argc > 1 && argv[0][0] == '-' && argv[0][1] == '-' && !argv[0][2]) {
		argv++;
		argc--;
	}
	if (argc < 2) {
		rcinit_say(rcinit_t_usage);
		rcinit_exit(127);
	}
	call(SYS_rt_sigprocmask, SIG_SETMASK_, (word)&all, (word)&before, 8, 0);
	call(SYS_close, 3, 0, 0, 0, 0); // tells the supervisor that from here on no signal gets lost
	word child = call(SYS_clone, SIGCHLD_, 0, 0, 0, 0);
	if (child < 0) {
		rcinit_say(rcinit_t_fork);
		rcinit_exit(126);
	}
	if (child == 0) {
		// A process group of its own: what it sends to its group shall not come back to us.
		call(SYS_setpgid, 0, 0, 0, 0, 0);
		call(SYS_rt_sigprocmask, SIG_SETMASK_, (word)&before, 0, 8, 0);
		word err = rcinit_exec(argv, envp, &why);
		rcinit_say(rcinit_t_name);
		rcinit_say(argv[0]);
		rcinit_say(why);
		rcinit_exit(err == ENOENT_ || err == ENOTDIR_ ? 127 : 126);
	}
	for (;;) {
		word sig = call(SYS_rt_sigtimedwait, (word)&all, 0, 0, 8, 0);
		if (sig != SIGCHLD_) {
			// Signals that come from the terminal of nobody are not passed on, nor is an interrupted wait.
			if (sig > 0 && sig != SIGTTIN_ && sig != SIGTTOU_)
				call(SYS_kill, child, sig, 0, 0, 0);
			continue;
		}
		for (;;) {
			int status = 0;
			word pid = call(SYS_wait4, -1, (word)&status, WNOHANG_, 0, 0);
			if (pid <= 0)
				break;
			if (pid == child)
				rcinit_exit((status & 0x7f) ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
		}
	}
}

extern const char __start_rcinit[], __stop_rcinit[], rcinit_entry[];

const void *reconciler_init_start(void) { return __start_rcinit; }
unsigned long reconciler_init_size(void) { return __stop_rcinit - __start_rcinit; }
unsigned long reconciler_init_entry(void) { return rcinit_entry - __start_rcinit; }

#else

const void *reconciler_init_start(void) { return 0; }
unsigned long reconciler_init_size(void) { return 0; }
unsigned long reconciler_init_entry(void) { return 0; }

#endif
