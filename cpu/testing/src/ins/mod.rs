//! `.ins` files.
