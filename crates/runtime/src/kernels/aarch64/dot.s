// Dot products of int8 with the NEON instruction sdot: each i32 of a vector gains four products of
// signed bytes, exactly. A panel is 4 rows; a tile of it is 16 columns, row after row, 64 bytes
// (see crates/base/src/weights.rs). Names stand twice: as ELF and as Mach-O spell them.

    .arch armv8.2-a+dotprod
    .text

// lockstep_neon_dot4(tiles: x0, count of tiles: x1, codes: x2, bytes between tokens: x3, sums: x4)
// sums[token][row], 4 tokens by 4 rows; at least one tile. v16 + 4 t + r sums token t and row r.
    .p2align 4
    .globl lockstep_neon_dot4
    .globl _lockstep_neon_dot4
lockstep_neon_dot4:
_lockstep_neon_dot4:
    add     x5, x2, x3
    add     x6, x5, x3
    add     x7, x6, x3
    movi    v16.4s, #0
    movi    v17.4s, #0
    movi    v18.4s, #0
    movi    v19.4s, #0
    movi    v20.4s, #0
    movi    v21.4s, #0
    movi    v22.4s, #0
    movi    v23.4s, #0
    movi    v24.4s, #0
    movi    v25.4s, #0
    movi    v26.4s, #0
    movi    v27.4s, #0
    movi    v28.4s, #0
    movi    v29.4s, #0
    movi    v30.4s, #0
    movi    v31.4s, #0
1:
    ld1     {v0.16b, v1.16b, v2.16b, v3.16b}, [x0], #64
    ldr     q4, [x2], #16
    ldr     q5, [x5], #16
    ldr     q6, [x6], #16
    ldr     q7, [x7], #16
    prfm    pldl1keep, [x0, #1024]
    sdot    v16.4s, v0.16b, v4.16b
    sdot    v17.4s, v1.16b, v4.16b
    sdot    v18.4s, v2.16b, v4.16b
    sdot    v19.4s, v3.16b, v4.16b
    sdot    v20.4s, v0.16b, v5.16b
    sdot    v21.4s, v1.16b, v5.16b
    sdot    v22.4s, v2.16b, v5.16b
    sdot    v23.4s, v3.16b, v5.16b
    sdot    v24.4s, v0.16b, v6.16b
    sdot    v25.4s, v1.16b, v6.16b
    sdot    v26.4s, v2.16b, v6.16b
    sdot    v27.4s, v3.16b, v6.16b
    sdot    v28.4s, v0.16b, v7.16b
    sdot    v29.4s, v1.16b, v7.16b
    sdot    v30.4s, v2.16b, v7.16b
    sdot    v31.4s, v3.16b, v7.16b
    subs    x1, x1, #1
    b.ne    1b
    addp    v16.4s, v16.4s, v17.4s
    addp    v18.4s, v18.4s, v19.4s
    addp    v20.4s, v20.4s, v21.4s
    addp    v22.4s, v22.4s, v23.4s
    addp    v24.4s, v24.4s, v25.4s
    addp    v26.4s, v26.4s, v27.4s
    addp    v28.4s, v28.4s, v29.4s
    addp    v30.4s, v30.4s, v31.4s
    addp    v0.4s, v16.4s, v18.4s
    addp    v1.4s, v20.4s, v22.4s
    addp    v2.4s, v24.4s, v26.4s
    addp    v3.4s, v28.4s, v30.4s
    st1     {v0.4s, v1.4s, v2.4s, v3.4s}, [x4]
    ret

// lockstep_neon_dot1(tiles: x0, count of tiles: x1, codes: x2, sums: x3)
// sums[row], one token by 4 rows; an even number of tiles, at least two. v16 + r and v20 + r sum
// row r, so that additions need not wait for each other.
    .p2align 4
    .globl lockstep_neon_dot1
    .globl _lockstep_neon_dot1
lockstep_neon_dot1:
_lockstep_neon_dot1:
    movi    v16.4s, #0
    movi    v17.4s, #0
    movi    v18.4s, #0
    movi    v19.4s, #0
    movi    v20.4s, #0
    movi    v21.4s, #0
    movi    v22.4s, #0
    movi    v23.4s, #0
1:
    ld1     {v0.16b, v1.16b, v2.16b, v3.16b}, [x0], #64
    ld1     {v4.16b, v5.16b, v6.16b, v7.16b}, [x0], #64
    ldp     q24, q25, [x2], #32
    prfm    pldl1keep, [x0, #1024]
    prfm    pldl1keep, [x0, #1088]
    sdot    v16.4s, v0.16b, v24.16b
    sdot    v17.4s, v1.16b, v24.16b
    sdot    v18.4s, v2.16b, v24.16b
    sdot    v19.4s, v3.16b, v24.16b
    sdot    v20.4s, v4.16b, v25.16b
    sdot    v21.4s, v5.16b, v25.16b
    sdot    v22.4s, v6.16b, v25.16b
    sdot    v23.4s, v7.16b, v25.16b
    subs    x1, x1, #2
    b.ne    1b
    add     v16.4s, v16.4s, v20.4s
    add     v17.4s, v17.4s, v21.4s
    add     v18.4s, v18.4s, v22.4s
    add     v19.4s, v19.4s, v23.4s
    addp    v16.4s, v16.4s, v17.4s
    addp    v18.4s, v18.4s, v19.4s
    addp    v0.4s, v16.4s, v18.4s
    st1     {v0.4s}, [x3]
    ret

// lockstep_neon_unpack4(groups: x0, ids: x1, tables: x2, count of groups: x3, tiles: x4)
// The int8 tiles that int4 groups of 32 columns mean, two a group: table x2 + 16 id looks the
// nibbles of a row up, those of the first 16 columns low, the others high. At least one group.
    .p2align 4
    .globl lockstep_neon_unpack4
    .globl _lockstep_neon_unpack4
lockstep_neon_unpack4:
_lockstep_neon_unpack4:
    movi    v31.16b, #15
1:
    ld1     {v0.16b, v1.16b, v2.16b, v3.16b}, [x0], #64
    prfm    pldl1keep, [x0, #1024]
    ldrh    w5, [x1]
    ldrh    w6, [x1, #2]
    ldrh    w7, [x1, #4]
    ldrh    w8, [x1, #6]
    add     x1, x1, #8
    add     x5, x2, x5, lsl #4
    add     x6, x2, x6, lsl #4
    add     x7, x2, x7, lsl #4
    add     x8, x2, x8, lsl #4
    ldr     q4, [x5]
    ldr     q5, [x6]
    ldr     q6, [x7]
    ldr     q7, [x8]
    and     v16.16b, v0.16b, v31.16b
    and     v17.16b, v1.16b, v31.16b
    and     v18.16b, v2.16b, v31.16b
    and     v19.16b, v3.16b, v31.16b
    ushr    v20.16b, v0.16b, #4
    ushr    v21.16b, v1.16b, #4
    ushr    v22.16b, v2.16b, #4
    ushr    v23.16b, v3.16b, #4
    tbl     v16.16b, {v4.16b}, v16.16b
    tbl     v17.16b, {v5.16b}, v17.16b
    tbl     v18.16b, {v6.16b}, v18.16b
    tbl     v19.16b, {v7.16b}, v19.16b
    tbl     v20.16b, {v4.16b}, v20.16b
    tbl     v21.16b, {v5.16b}, v21.16b
    tbl     v22.16b, {v6.16b}, v22.16b
    tbl     v23.16b, {v7.16b}, v23.16b
    st1     {v16.16b, v17.16b, v18.16b, v19.16b}, [x4], #64
    st1     {v20.16b, v21.16b, v22.16b, v23.16b}, [x4], #64
    subs    x3, x3, #1
    b.ne    1b
    ret
