//! The rules of vfio_ap, each held by a test: `docs/vfio-ap-rules.md` says which by which.
//!
//! Tests beginning with `doc_` are the worked examples of the documents with which the driver was discussed, named after the
//! document; where the merged driver (Linux 7.2) does something else, they assert that. `v01_` to `v21_` and `l1_` to `l3_` are
//! what past bugs teach, `linux_7_2_` what came last.

#![forbid(unsafe_code)]

mod doc_in_use;
mod doc_v11_08;
mod doc_v12_10;
mod doc_v2_7;
mod doc_v7_15;
mod explain;
mod hardware;
mod leaks;
mod locks;
mod machine;
mod overrides;
mod past_bugs;
mod resets;
mod setup;
mod table;
