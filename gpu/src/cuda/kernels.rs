//! The kernels on a device: compiled there by NVRTC where it is, else from the intermediate form that is in the binary,
//! which the driver makes into machine code.
#![allow(unsafe_code)]

use std::io::Read as _;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::{CudaContext, CudaFunction};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use flate2::read::GzDecoder;

use super::{driver, source};
use crate::device::DeviceInfo;
use crate::kernels::{DeviceError, Kernel};

/// Made by `kernels/compile.py --embed`: for all architectures from 7.5 on and all drivers of CUDA 12 or later.
const EMBEDDED: &[u8] = include_bytes!("../../kernels/kernels.ptx.gz");
/// The first architecture that the embedded form is for.
const EMBEDDED_FROM: (i32, i32) = (7, 5);
/// Longer it is not: 3 MB.
const LONGEST: u64 = 16 << 20;

/// Loads them, which takes seconds.
pub(super) fn load(
    context: &Arc<CudaContext>,
    info: &DeviceInfo,
) -> Result<Arc<[(Kernel, CudaFunction)]>, DeviceError> {
    let start = Instant::now();
    let (functions, by) = match compiled(context, info) {
        Ok(functions) => (functions, "NVRTC"),
        Err(why) => {
            if info.architecture < EMBEDDED_FROM {
                return Err(why);
            }
            tracing::info!(device = info.index, %why, "the embedded form of the kernels is used");
            let ptx = embedded().map_err(|error| DeviceError::Compile(format!("the embedded form: {error}")))?;
            (functions(context, Ptx::from_src(ptx))?, "the driver")
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(device = info.index, name = %info.name, by, seconds, "kernels are compiled");
    Ok(functions)
}

fn compiled(context: &Arc<CudaContext>, info: &DeviceInfo) -> Result<Arc<[(Kernel, CudaFunction)]>, DeviceError> {
    // SAFETY: loading the compiler's library runs its initialisers, which is what it is for; the call does nothing else.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(DeviceError::Compile("no NVRTC (libnvrtc) is installed".to_owned()));
    }
    let (major, minor) = info.architecture;
    let mut options: Vec<String> = source::OPTIONS.iter().map(|option| (*option).to_owned()).collect();
    options.push(format!("--gpu-architecture=compute_{major}{minor}"));
    let ptx = compile_ptx_with_opts(source::text(), CompileOptions { options, ..CompileOptions::default() })
        .map_err(|error| DeviceError::Compile(format!("{error:?}")))?;
    // An NVRTC that is newer than the driver makes a form that the driver does not take.
    functions(context, ptx)
}

fn functions(context: &Arc<CudaContext>, ptx: Ptx) -> Result<Arc<[(Kernel, CudaFunction)]>, DeviceError> {
    let module = context.load_module(ptx).map_err(driver("loading the kernels"))?;
    Kernel::ALL
        .into_iter()
        .map(|kernel| Ok((kernel, module.load_function(kernel.name()).map_err(driver("finding a kernel"))?)))
        .collect()
}

fn embedded() -> std::io::Result<String> {
    let mut text = String::new();
    GzDecoder::new(EMBEDDED).take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha3::{Digest as _, Sha3_256};

    #[test]
    fn the_embedded_form_is_of_these_sources_and_has_every_kernel() {
        let text = embedded().unwrap();
        let digest = hex::encode(Sha3_256::digest(source::text()));
        assert_eq!(
            text.lines().next(),
            Some(&*format!("// compute_75 by NVRTC 12.0 of sources {digest}")),
            "the kernels have changed: gpu/kernels/compile.py LIBNVRTC --embed"
        );
        assert!(text.contains("\n.version 8.0\n") && text.contains("\n.target sm_75\n"));
        for kernel in Kernel::ALL {
            assert_eq!(text.matches(&format!(".visible .entry {}(", kernel.name())).count(), 1, "{}", kernel.name());
        }
    }
}
