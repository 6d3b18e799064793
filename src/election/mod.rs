//! Member: the roles and their transitions, as logic
