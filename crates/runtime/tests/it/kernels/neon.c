/* Runs the functions of crates/runtime/src/kernels/aarch64/dot.s on what it reads, until the end:
 *   u32 bits (8 or 4), u32 tiles of 16 columns, u32 tables; one panel of codes; for 4 bits, its table
 *   ids and the tables; 4 tokens of 16 * tiles codes
 * and writes the sums [token][row], by lockstep_neon_dot4 and then by lockstep_neon_dot1. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

void lockstep_neon_dot4(const uint8_t *tiles, size_t count, const int8_t *codes, size_t stride, int32_t *sums);
void lockstep_neon_dot1(const uint8_t *tiles, size_t count, const int8_t *codes, int32_t *sums);
void lockstep_neon_unpack4(const uint8_t *groups, const uint8_t *ids, const uint8_t *tables, size_t count, uint8_t *tiles);

static uint8_t *read_bytes(size_t n) {
    uint8_t *bytes = malloc(n ? n : 1);
    if (!bytes || fread(bytes, 1, n, stdin) != n) exit(2);
    return bytes;
}

int main(void) {
    uint32_t head[3];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        size_t count = head[1];
        uint8_t *tiles;
        if (head[0] == 8) {
            tiles = read_bytes(64 * count);
        } else {
            uint8_t *groups = read_bytes(32 * count), *ids = read_bytes(4 * count);
            uint8_t *tables = read_bytes(16 * (size_t)head[2]);
            tiles = malloc(64 * count);
            if (!tiles) return 2;
            lockstep_neon_unpack4(groups, ids, tables, count / 2, tiles);
            free(groups), free(ids), free(tables);
        }
        int8_t *codes = (int8_t *)read_bytes(64 * count);
        int32_t sums[32];
        lockstep_neon_dot4(tiles, count, codes, 16 * count, sums);
        for (int t = 0; t < 4; t++) lockstep_neon_dot1(tiles, count, codes + 16 * count * t, sums + 16 + 4 * t);
        if (fwrite(sums, sizeof sums, 1, stdout) != 1) return 2;
        free(tiles), free(codes);
    }
    return 0;
}
