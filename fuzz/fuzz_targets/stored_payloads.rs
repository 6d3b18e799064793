//! Any bytes as a payload that seems to be encrypted: refused, or read as it was; never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

use stanby::base::encryption::{Cipher, Secret, StoreKey};
use stanby::base::epoch::Epoch;
use stanby::base::id::Sequence;
use stanby::store::encryption::payload::{Nonces, Sealer, cipher_of, looks_encrypted};

fuzz_target!(|bytes: &[u8]| {
    let _ = looks_encrypted(bytes, Sequence(7));
    for cipher in [Cipher::Aes, Cipher::ChaCha] {
        let key = StoreKey::of(&Secret::new(b"a key".to_vec()), cipher);
        let sealer = Sealer::new(cipher, &key.of_channel(bytes.get(..9).unwrap_or_default()));
        assert!(sealer.decrypt(bytes).is_err() || cipher_of(bytes).is_some());
        let stored = sealer.encrypt(&mut Nonces::new(1, Epoch(2), Sequence(3)), bytes);
        if !bytes.is_empty() {
            assert_eq!(cipher_of(&stored), Some(cipher));
            assert_eq!(sealer.decrypt(&stored).as_deref(), Ok(bytes));
        }
    }
});
