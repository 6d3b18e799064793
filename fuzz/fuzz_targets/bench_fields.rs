//! Whatever a server sends to `stanby bench`: reading its fields ends, gives nothing that was not
//! sent, and gives the same of what was read when that is written anew.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stanby::bench::fields::{Fields, Value, push_number};

fuzz_target!(|data: &[u8]| {
    let found: Vec<(u64, Value<'_>)> = Fields(data).collect();
    let len = |(_, value): &(u64, Value<'_>)| match value {
        Value::Number(_) => 2,
        Value::Bytes(bytes) => 1 + bytes.len(),
    };
    assert!(found.iter().map(len).sum::<usize>() <= data.len());
    let mut again = Vec::new();
    for (field, value) in &found {
        match value {
            Value::Number(number) => {
                push_number(&mut again, field << 3);
                push_number(&mut again, *number);
            }
            Value::Bytes(bytes) => {
                push_number(&mut again, field << 3 | 2);
                push_number(&mut again, u64::try_from(bytes.len()).unwrap());
                again.extend_from_slice(bytes);
            }
        }
    }
    assert!(Fields(&again).eq(found.iter().copied()));
});
