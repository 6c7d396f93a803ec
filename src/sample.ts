// Sample tenants and their FOCUS 1.0 bills, made from a seed, with the truth that was planted in them. The bills have the
// quirks of real exports: NULL as a word, times without zone, prices in the wrong column, costs of zero, stray spaces.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { makeBill } from "./sample/bill.ts";
import { PROFILES, type Profile } from "./sample/catalog.ts";
import { HEADER } from "./sample/csv.ts";
import type { Truth } from "./sample/truth.ts";

export type { Truth };

/** A sample tenant; its bill ends where `lastDay` begins, in UTC. */
export type SampleTenant = Profile & { lastDay: Date };

/** A bill in a file, its number of rows, and what was planted in it. */
export type Sample = { path: string; rows: number; truth: Truth };

/** The five sample tenants, on all three tiers, with bills of 120 days up to `lastDay`, exclusive. */
export function sampleTenants(lastDay: Date): SampleTenant[] {
  return PROFILES.map((profile) => ({ ...profile, lastDay }));
}

/** Writes the tenant's bill as CSV, one of them as gzip. The same tenant and day give the same bytes. */
export async function writeSample(tenant: SampleTenant, directory: string): Promise<Sample> {
  const { lines, truth } = makeBill(tenant, tenant.lastDay);
  const text = `${HEADER}\n${lines.join("\n")}\n`;
  const name = `${tenant.name.toLowerCase().replaceAll(" ", "-")}.csv`;
  const path = join(directory, tenant.gzip ? `${name}.gz` : name);
  await writeFile(path, tenant.gzip ? gzipSync(text) : text);
  return { path, rows: lines.length, truth };
}
