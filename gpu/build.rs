//! Compiles the device kernels for the host where tests ask for it (feature `host-kernels`).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    #[cfg(feature = "host-kernels")]
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("kernels/host.cpp")
        // Tests run it for thousands of signatures, in debug builds too.
        .opt_level(2)
        // Undefined behaviour ends the process, and memory that nobody wrote is not zero.
        .flag_if_supported("-fsanitize=undefined")
        .flag_if_supported("-fsanitize-undefined-trap-on-error")
        .flag_if_supported("-ftrivial-auto-var-init=pattern")
        .flag_if_supported("-Wno-unknown-pragmas")
        .flag_if_supported("-Wno-maybe-uninitialized")
        // Exceptions and the C++ library are not used.
        .flag("-fno-exceptions")
        .flag("-fno-rtti")
        .cpp_link_stdlib(None)
        .compile("aurigraph_host_kernels");
}
