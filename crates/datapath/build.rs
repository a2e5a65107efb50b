//! Compiles the packet program. `CLANG` names another compiler than `clang`; feature `xdp` off needs none.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_XDP").is_none() {
        return;
    }

    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    compile(&clang, "filter", "filter", &[], &out_dir);
    // The benchmark's unit, and the filter as it would be without some of what it can: they cost a few milliseconds each, and
    // nobody else embeds them.
    compile(&clang, "baseline", "baseline", &[], &out_dir);
    for part in ["handover", "probes", "aside", "suspend", "clock"] {
        let define = format!("-DWITHOUT_{}", part.to_uppercase());
        let defines = [define.as_str(), "-Wno-unused-parameter", "-Wno-unused-function"];
        compile(&clang, "filter", &format!("filter_without_{part}"), &defines, &out_dir);
    }
}

fn compile(clang: &str, source: &str, name: &str, defines: &[&str], out_dir: &Path) {
    let source = format!("bpf/{source}.bpf.c");
    let object = out_dir.join(format!("{name}.bpf.o"));
    let dependencies = out_dir.join(format!("{name}.bpf.d"));
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");

    // The kernel's headers include <asm/types.h>, which Debian keeps in a directory that the BPF target does not
    // search. LLVM 20 moved the default instruction set; v3 (Linux 5.1) is what we want from every version.
    let result = Command::new(clang)
        .args(["-O2", "-g", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-fno-stack-protector"])
        .arg(format!("--target={target}"))
        .args(["-idirafter", &format!("/usr/include/{arch}-linux-gnu")])
        .args(defines)
        .args(["-c", &source, "-o"])
        .arg(&object)
        .args(["-MD", "-MF"])
        .arg(&dependencies)
        .status();
    match result {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{clang} could not compile {source} ({status}); its messages are above. The headers come from \
             `apt install libbpf-dev linux-libc-dev`"
        ),
        Err(error) => panic!(
            "{clang} does not start ({error}); `apt install clang libbpf-dev linux-libc-dev`, or name a compiler in \
             CLANG, or build without feature `xdp`"
        ),
    }

    // A make rule: "target: header header \<newline> header". Our paths have no blanks.
    let rule = fs::read_to_string(&dependencies).expect("clang wrote the dependency file");
    let (_, headers) = rule.split_once(':').expect("a dependency file is a make rule");
    for header in headers.split_whitespace().filter(|word| *word != "\\") {
        println!("cargo::rerun-if-changed={header}");
    }
}
