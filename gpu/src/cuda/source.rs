//! The text of the kernels as NVRTC gets it: one file, as `kernels/compile.py` puts it together as well.

/// In the order in which they include each other.
const FILES: [&str; 6] = [
    include_str!("../../kernels/common.h"),
    include_str!("../../kernels/keccak.h"),
    include_str!("../../kernels/mldsa87.cu"),
    include_str!("../../kernels/mlkem1024.cu"),
    include_str!("../../kernels/sha3.cu"),
    include_str!("../../kernels/tally.cu"),
];

/// What NVRTC is told besides the architecture.
pub(super) const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "-default-device"];

/// All files, without the lines that would include others.
pub(super) fn text() -> String {
    let mut text = String::new();
    for line in FILES.iter().flat_map(|file| file.lines()) {
        if !line.starts_with("#include") && !line.starts_with("#pragma once") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernel;
    use sha3::{Digest as _, Sha3_256};

    #[test]
    fn every_kernel_is_in_the_text_and_nothing_is_included() {
        let text = text();
        for kernel in Kernel::ALL {
            let start = format!("extern \"C\" __global__ void {}(", kernel.name());
            assert_eq!(text.matches(&start).count(), 1, "{}", kernel.name());
        }
        assert!(!text.contains("#include"));
    }

    /// The sources that were last compiled for all architectures, with the registers that each kernel took there.
    #[test]
    fn the_record_of_registers_is_of_these_sources() {
        let record = include_str!("../../kernels/registers.txt");
        let digest = hex::encode(Sha3_256::digest(text()));
        assert!(
            record.lines().next().is_some_and(|first| first.ends_with(&digest)),
            "the kernels have changed: gpu/kernels/compile.py LIBNVRTC --registers > gpu/kernels/registers.txt"
        );
    }
}
