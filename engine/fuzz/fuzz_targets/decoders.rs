//! Every decoder of stored bytes: the first byte chooses which. None may panic or allocate beyond the format's limits.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((which, rest)) = bytes.split_first() {
        plakar_engine::testing::decode(*which, rest);
    }
});
