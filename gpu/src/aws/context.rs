//! ML-DSA-87 with a context string, and from a message representative: AWS-LC offers both in C only.
//!
//! Nothing leaves this module but booleans; every object is freed where it was made.
#![allow(unsafe_code)]

use std::ptr::{NonNull, null_mut};

use aws_lc_sys::{
    ERR_clear_error, EVP_DigestVerify, EVP_DigestVerifyInit, EVP_MD_CTX, EVP_MD_CTX_free, EVP_MD_CTX_new, EVP_PKEY,
    EVP_PKEY_CTX, EVP_PKEY_CTX_free, EVP_PKEY_CTX_new, EVP_PKEY_CTX_set1_signature_context_string, EVP_PKEY_free,
    EVP_PKEY_pqdsa_new_raw_public_key, EVP_PKEY_verify, EVP_PKEY_verify_init, NID_MLDSA87,
};

use crate::verify::VerifyItem;

/// A C object with the function that frees it.
pub(super) struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    pub(super) fn new(made: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(made).map(|object| Self(object, free))
    }

    pub(super) const fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object was made by the function that belongs to this `free`, and is freed here only.
        unsafe { (self.1)(self.0.as_ptr()) }
    }
}

fn parse(public_key: &[u8]) -> Option<Owned<EVP_PKEY>> {
    // SAFETY: pointer and length describe the slice; the library copies it.
    let key = unsafe { EVP_PKEY_pqdsa_new_raw_public_key(NID_MLDSA87, public_key.as_ptr(), public_key.len()) };
    Owned::new(key, EVP_PKEY_free)
}

/// Failures leave notes in a queue of the thread; nobody reads them here.
pub(super) fn forget_errors(valid: Option<bool>) -> bool {
    // SAFETY: touches the thread's error queue only.
    unsafe { ERR_clear_error() };
    valid == Some(true)
}

/// Whether the item is valid under its context string.
pub(super) fn verify(item: &VerifyItem<'_>) -> bool {
    forget_errors(try_verify(item))
}

fn try_verify(item: &VerifyItem<'_>) -> Option<bool> {
    let key = parse(item.public_key)?;
    // SAFETY: no arguments.
    let digest = Owned::<EVP_MD_CTX>::new(unsafe { EVP_MD_CTX_new() }, EVP_MD_CTX_free)?;
    let mut settings: *mut EVP_PKEY_CTX = null_mut();
    // SAFETY: all objects live until the end of this function; null asks for no digest and no engine, as ML-DSA wants;
    // `settings` belongs to `digest` and is not freed; the slices outlive the calls, which copy or only read them.
    unsafe {
        if EVP_DigestVerifyInit(digest.get(), &raw mut settings, std::ptr::null(), null_mut(), key.get()) != 1 {
            return None;
        }
        let context = item.context;
        if EVP_PKEY_CTX_set1_signature_context_string(settings, context.as_ptr(), context.len()) != 1 {
            return None;
        }
        let (signature, message) = (item.signature, item.message);
        let verdict =
            EVP_DigestVerify(digest.get(), signature.as_ptr(), signature.len(), message.as_ptr(), message.len());
        Some(verdict == 1)
    }
}

/// Whether the signature is valid for this message representative.
pub(super) fn verify_representative(public_key: &[u8], mu: &[u8; 64], signature: &[u8]) -> bool {
    forget_errors(try_verify_representative(public_key, mu, signature))
}

fn try_verify_representative(public_key: &[u8], mu: &[u8; 64], signature: &[u8]) -> Option<bool> {
    let key = parse(public_key)?;
    // SAFETY: the key lives until the end of this function; null asks for no engine.
    let settings = Owned::<EVP_PKEY_CTX>::new(unsafe { EVP_PKEY_CTX_new(key.get(), null_mut()) }, EVP_PKEY_CTX_free)?;
    // SAFETY: the object is alive, and the slices outlive the call, which only reads them.
    unsafe {
        if EVP_PKEY_verify_init(settings.get()) != 1 {
            return None;
        }
        Some(EVP_PKEY_verify(settings.get(), signature.as_ptr(), signature.len(), mu.as_ptr(), mu.len()) == 1)
    }
}
