//! AP configuration data types of z/Architecture: APQN, masks, matrix, QCI block, APCB, CRYCB.
