//! Entropy and clocks of the simulation's thread, taken at the level of libc: every `getrandom` and `clock_gettime` of
//! any dependency, ring's included, is answered from the seed and from virtual time while a [`Guard`] lives. Other
//! threads keep the real ones.
//!
//! INVARIANT: with a guard, nothing that happens on this thread depends on anything but the seed.

use std::cell::{Cell, RefCell};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static SOURCE: RefCell<Option<ChaCha8Rng>> = const { RefCell::new(None) };
}

/// Entropy and clocks come from the seed while it lives, on this thread.
pub struct Guard(());

impl Guard {
    pub fn new(seed: u64) -> Self {
        SOURCE.with(|s| *s.borrow_mut() = Some(ChaCha8Rng::seed_from_u64(seed)));
        ACTIVE.set(true);
        Self(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        ACTIVE.set(false);
        SOURCE.with(|s| *s.borrow_mut() = None);
    }
}

fn active() -> bool {
    // The thread's storage may be gone while it is torn down.
    ACTIVE.try_with(Cell::get).unwrap_or(false)
}

/// Fills `dest` from the seed. False if this thread is not simulated.
fn fill(dest: &mut [u8]) -> bool {
    let filled = |source: &RefCell<Option<ChaCha8Rng>>| {
        let mut source = source.try_borrow_mut().ok()?;
        source.as_mut().map(|s| s.fill_bytes(dest))
    };
    active() && SOURCE.try_with(filled).ok().flatten().is_some()
}

/// The system call itself, past the symbol that is defined below.
#[cfg(target_arch = "x86_64")]
unsafe fn system_call(number: i64, a: [i64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the registers are those of the x86-64 Linux call convention; what the arguments mean is the caller's.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn system_call(number: i64, a: [i64; 6]) -> i64 {
    let result: i64;
    // SAFETY: as above, for the arm64 Linux call convention.
    unsafe {
        std::arch::asm!("svc 0", in("x8") number, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2],
            in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    result
}

/// libc's way to say an error.
unsafe fn returned(result: i64) -> i64 {
    if (-4095..0).contains(&result) {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = i32::try_from(-result).unwrap_or(libc::EIO) };
        return -1;
    }
    result
}

/// # Safety
/// As libc's: `buffer` must be writable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, flags: u32) -> isize {
    // SAFETY: the caller's promise.
    if len > 0 && fill(unsafe { std::slice::from_raw_parts_mut(buffer, len) }) {
        return isize::try_from(len).unwrap_or(isize::MAX);
    }
    // SAFETY: the caller's promise.
    let result =
        unsafe { returned(system_call(libc::SYS_getrandom, [buffer as i64, len as i64, i64::from(flags), 0, 0, 0])) };
    isize::try_from(result).unwrap_or(-1)
}

/// # Safety
/// As libc's: `buffer` must be writable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    if len > 256 || unsafe { getrandom(buffer, len, 0) } < 0 { -1 } else { 0 }
}

/// libc's variadic `syscall`: integer arguments arrive like fixed ones on both architectures. ring asks for entropy here.
///
/// # Safety
/// As libc's, for the call that `number` names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(number: i64, a: i64, b: i64, c: i64, d: i64, e: i64, f: i64) -> i64 {
    if number == libc::SYS_getrandom && b > 0 {
        let len = usize::try_from(b).unwrap_or(0);
        // SAFETY: for this call, the caller promises `b` writable bytes at `a`.
        if fill(unsafe { std::slice::from_raw_parts_mut(a as *mut u8, len) }) {
            return b;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { returned(system_call(number, [a, b, c, d, e, f])) }
}

/// # Safety
/// As libc's: `at` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, at: *mut libc::timespec) -> i32 {
    if active()
        && tokio::runtime::Handle::try_current().is_ok()
        && let Some(now) = virtual_time(clock)
    {
        // SAFETY: the caller's promise.
        unsafe { at.write(now) };
        return 0;
    }
    // SAFETY: the caller's promise.
    let result = unsafe { returned(system_call(libc::SYS_clock_gettime, [i64::from(clock), at as i64, 0, 0, 0, 0])) };
    i32::try_from(result).unwrap_or(-1)
}

fn virtual_time(clock: libc::clockid_t) -> Option<libc::timespec> {
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            let since = turmoil::since_epoch().unwrap_or_default();
            let seconds = libc::time_t::try_from(since.as_secs()).ok()?;
            Some(libc::timespec { tv_sec: seconds, tv_nsec: i64::from(since.subsec_nanos()) })
        }
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_BOOTTIME => {
            let now = tokio::time::Instant::now();
            // SAFETY: tokio's paused instant is std's, which is (i64 seconds, u32 nanoseconds) on Linux.
            let (seconds, nanos): (i64, u32) = unsafe { std::mem::transmute_copy(&now) };
            Some(libc::timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) })
        }
        _ => None,
    }
}
