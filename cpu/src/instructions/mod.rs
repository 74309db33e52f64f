//! The instructions, one module per chapter of the manual, split by family. Each module has `rows()`;
//! this one joins them.
//!
//! A row stands in the table at the top of its module, the semantic functions below it in the same
//! order. What they may use is on [`Cpu`](crate::Cpu): registers, `cc`, storage access, exceptions.

use crate::table::Row;

mod arithmetic;
mod assist;
mod branch;
mod compare;
mod condition;
mod control;
mod convert;
mod decimal;
mod float;
mod highword;
mod immediate;
mod load;
mod load_and_update;
mod logical;
mod long;
mod multiple;
mod multiply;
mod shift;
mod storage;
mod storage_control;
mod store;
mod string;
mod swap;
mod time;
mod translate_ops;
mod unicode;

/// Every row, chapter by chapter.
pub(crate) fn rows() -> Vec<Row> {
    [
        load::rows(),
        branch::rows(),
        time::rows(),
        storage_control::rows(),
        control::rows(),
        arithmetic::rows(),
        compare::rows(),
        condition::rows(),
        highword::rows(),
        immediate::rows(),
        load_and_update::rows(),
        logical::rows(),
        multiple::rows(),
        multiply::rows(),
        shift::rows(),
        store::rows(),
        swap::rows(),
        string::rows(),
        storage::rows(),
        long::rows(),
        assist::rows(),
        decimal::rows(),
        float::rows(),
        convert::rows(),
        unicode::rows(),
        translate_ops::rows(),
    ]
    .concat()
}
