//! Constants of the kernels, each rounded to its last bit.
//!
//! They come from Python's mpmath with 400 bits, and anything else with that many bits will do:
//!
//! ```text
//! from mpmath import mp, mpf, nint, atan, log, pi
//! mp.prec = 400
//! unit = mpf(2) ** 128
//! ATAN = [int(nint(atan(mpf(k) / 32) * unit)) for k in range(33)]
//! LOG2 = [int(nint(abs(log(mpf(k) / 32, 2)) * unit)) for k in range(23, 46)]
//! EXP2 = [int(nint(mpf(2) ** (mpf(k) / 32) * unit / 4)) for k in range(33)]
//! PI, LN_OF_2, LOG2_OF_E = int(nint(pi * unit / 4)), int(nint(log(2) * unit)), int(nint(unit / log(2) / 2))
//! ```
//!
//! The coefficients of the series are computed by the compiler.

/// Pi in units of 2^-126.
pub(super) const PI: u128 = 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1;

/// ln(2) in units of 2^-128.
pub(super) const LN_OF_2: u128 = 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af;

/// log2(e) in units of 2^-127.
pub(super) const LOG2_OF_E: u128 = 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89;

/// atan(k / 32) for k from 0 to 32, in units of 2^-128.
pub(super) const ATAN: [u128; 33] = [
    0x0000_0000_0000_0000_0000_0000_0000_0000,
    0x07ff_556e_ea5d_892a_13bc_ebbb_6ed4_6311,
    0x0ffa_addb_967e_f4e3_6cb2_792d_c0e2_e0d5,
    0x17ee_1826_02f1_0e8c_126a_cfcf_099f_06cf,
    0x1fd5_ba9a_ac2f_6dc6_5912_f313_e7d1_11df,
    0x27ad_ddd1_8cc4_d8b0_d1d8_6749_40d8_3fa1,
    0x2f72_f697_9cb6_044d_1ec2_d3e2_0727_1d22,
    0x3721_aea5_24c1_4408_bd88_6970_72d5_4bc1,
    0x3eb6_ebf2_5901_bac5_5b71_e7bd_7de8_85f9,
    0x462f_d68c_2fc5_e098_6523_a458_dfc4_14c7,
    0x4d89_dcdc_1faf_2f34_e2d5_da4c_693d_7994,
    0x54c2_b665_4735_276d_4cdb_fbbd_fbec_f461,
    0x5bd8_6507_937b_c239_c551_9091_6e7f_2242,
    0x62c9_34e5_286c_95b6_d0ba_3748_fa85_146f,
    0x6993_bb0f_308f_f2db_213e_4af4_800f_389b,
    0x7036_d325_3b27_be33_e318_f6cb_3cc6_5c02,
    0x76b1_9c15_86ed_3da2_b7f2_22f6_5e1d_4682,
    0x7d03_742d_5050_5f2e_3369_1e3e_aee4_7661,
    0x832b_f4a6_d986_7e2a_4b6a_09cb_61a5_15c1,
    0x892a_ecdf_de95_47b5_0944_78fc_472b_4afc,
    0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748,
    0x94ac_72c9_8471_86f6_18c4_f393_f78a_32f9,
    0x9a2f_80e6_71bd_da20_4226_f8e2_204f_f3bd,
    0x9f89_fdc4_f4b7_a1ec_f8b4_9264_4f07_01e0,
    0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f,
    0xa9c7_abdc_4830_f5c8_916a_84b5_be79_33f6,
    0xaeac_4c38_b4d8_c080_1472_5e2f_3e52_070a,
    0xb36b_31c9_1f04_3691_5901_4174_4462_f93a,
    0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d,
    0xbc7b_5dea_e98a_f280_d411_3006_e80f_b290,
    0xc0ce_85b8_ac52_6640_89dd_62c4_6e92_fa25,
    0xc4ff_affa_bf8f_bd54_8cb4_3d10_bc9e_0221,
    0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1,
];

/// The magnitude of log2(k / 32) for k from 23 to 45, in units of 2^-128.
pub(super) const LOG2: [u128; 23] = [
    0x79f7_d7f9_4e2a_cd3b_ed45_6b24_ed10_f558,
    0x6a3f_e5c6_0429_7860_5ff4_edf5_f974_522f,
    0x5b2c_3da1_9723_a80d_b6a0_4805_9281_2599,
    0x4caf_fb8d_c3b9_a196_8925_e378_d67c_aee2,
    0x3ebf_b152_0c7c_6921_1fde_c9e1_ec5c_f68d,
    0x3151_3015_7f7a_64cc_d536_fc5b_ec1a_57b9,
    0x245b_5b85_5669_2da5_a475_e64e_39c8_98e1,
    0x17d6_0496_cfbb_4c67_3b45_11f8_c2b4_e4fb,
    0x0bb9_ca64_ecac_6aae_f2e1_c07f_0438_ebac,
    0x0000_0000_0000_0000_0000_0000_0000_0000,
    0x0b5d_69ba_c77e_c398_9b03_784b_5be0_8490,
    0x1663_f6fa_c913_167c_cc53_8261_4457_5ac4,
    0x2118_b119_b4f3_c72c_4f78_dfa1_4aa5_157b,
    0x2b80_3473_f7ad_0f3f_4016_2414_0d17_5ba2,
    0x359e_bc5b_69d9_27df_c23d_9780_306c_696a,
    0x3f78_2d72_04d0_1447_51b3_314f_09de_6be5,
    0x4910_1eac_381c_e609_16e5_2e91_300e_feef,
    0x5269_e12f_346e_2bf9_24af_dbfd_36bf_6d33,
    0x5b88_8736_7433_795e_3548_2d13_dc0f_110d,
    0x646e_ea24_7c5c_22d2_cad4_15ae_1a71_5618,
    0x6d1f_afdc_e20a_8290_51bb_e3f6_289e_3ab7,
    0x759d_4f80_cba8_3bf8_faf8_6641_5554_d6bf,
    0x7dea_15a3_2c1b_3b38_64c6_0011_43d6_c8d6,
];

/// 2^(k / 32) for k from 0 to 32, in units of 2^-126.
pub(super) const EXP2: [u128; 33] = [
    0x4000_0000_0000_0000_0000_0000_0000_0000,
    0x4166_c34c_5615_d0eb_9f15_23ad_a329_0600,
    0x42d5_61b3_e624_3d8a_62e4_adc6_10aa_60d9,
    0x444c_0740_496d_4293_aefc_6bb6_4c63_3ab1,
    0x45ca_e0f1_f545_eb73_7df2_3143_ac52_9e48,
    0x4752_1cc5_a2e6_a9e0_16e0_0a26_43c1_ea63,
    0x48e1_e9b9_d588_e19b_07eb_6c70_572d_64ec,
    0x4a7a_77d4_7f7b_84b0_9745_7d68_92a8_ef2a,
    0x4c1b_f828_c6dc_54b7_a356_918c_1721_7b7b,
    0x4dc6_9cdc_eaa7_2a9c_5154_0bd1_51e6_1f90,
    0x4f7a_9930_48d0_88d6_d048_8f84_f5dc_fee9,
    0x5138_2181_8624_b40c_4dbd_0277_c067_ef54,
    0x52ff_6b54_d8a8_9c75_0e5e_bfb1_0b88_380e,
    0x54d0_ad5a_753e_077c_2a0f_1276_1a98_fd3a,
    0x56ac_1f75_2150_a563_24c0_5464_7acd_1762,
    0x5891_fac0_e956_12c7_c3e8_1bf4_b690_aec7,
    0x5a82_7999_fcef_3242_2cbe_c4d9_baa5_5f50,
    0x5c7d_d7a3_b17d_cf74_8dc3_cbbc_2b35_b2d1,
    0x5e84_51cf_ac06_1b5f_5440_8fdb_3687_d7bd,
    0x6096_2665_3338_4a2b_3e22_beac_d280_43db,
    0x62b3_9508_aa83_6d6e_9f15_6864_b26e_cf9c,
    0x64dc_dec3_3717_93d1_4070_fc95_0288_b4bf,
    0x6712_460a_8fc2_4071_f11a_c1c7_caf9_6377,
    0x6954_0ec8_f895_722d_0912_472b_e1ef_2014,
    0x6ba2_7e65_6b4e_b57a_1cd3_45dc_c816_9fef,
    0x6dfd_dbcb_ed79_1baa_9ec2_06ad_4f14_d532,
    0x7066_6f76_154a_7088_832c_4a82_46e9_99e5,
    0x72dc_8373_be41_a454_0f2f_47a5_276d_d876,
    0x7560_6373_ee92_1c97_6816_bad9_b837_2a7d,
    0x77f2_5ccd_ee6d_7ae5_a32b_0e7b_4a46_dc89,
    0x7a92_be8a_9243_6616_3dce_863d_76cc_07e2,
    0x7d41_d96d_b915_019d_3e12_dd8a_18ae_bfe6,
    0x8000_0000_0000_0000_0000_0000_0000_0000,
];

/// 1 / n! in units of 2^-128, cut off; what 0 and 1 would be does not fit.
pub(super) const INVERSE_FACTORIALS: [u128; 34] = {
    let mut all = [u128::MAX; 34];
    let mut n = 2;
    while n < all.len() {
        // Each division cuts off less than one unit, and divides what was cut off before.
        all[n] = if n == 2 { 1 << 127 } else { all[n - 1] / n as u128 };
        n += 1;
    }
    all
};

/// 1 / (2n + 1) in units of 2^-128, cut off, from n = 1 on.
pub(super) const INVERSE_ODDS: [u128; 12] = {
    let mut all = [0; 12];
    let mut n = 0;
    while n < all.len() {
        all[n] = u128::MAX / (2 * n as u128 + 3);
        n += 1;
    }
    all
};
