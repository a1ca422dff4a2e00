//! HashiCorp Vault, on OpenBao: key/value engines of version 2 and 1, TLS by a private issuer.

mod versioned {
    use postern_tests::stores::vault::Vault;

    crate::stores::conformance!(Vault::versioned());
    crate::stores::delivery!(Vault::versioned());
}

mod legacy {
    use postern_tests::stores::vault::Vault;

    crate::stores::conformance!(Vault::legacy());
}
