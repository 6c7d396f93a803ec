// The first start: five tenants with 120 days of generated bills, imported as any other file is.
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Db } from "./db.ts";
import { importFocus } from "./imports.ts";
import type { Progress } from "./progress.ts";
import type { Ops } from "./report.ts";
import { sampleTenants, writeSample } from "./sample.ts";
import { tenantAdd, tenantsList } from "./tenants.ts";

/**
 * Makes what is missing of the sample, when the database has no tenant or has sample tenants: a first start that was
 * killed half-way is finished by the next one. Answers how many bills it imported.
 */
export async function addSampleTenants(given: {
  db: Db;
  ops: Ops;
  directory: string;
  progress: Progress;
  signal: AbortSignal;
}): Promise<number> {
  const { db, ops, progress, signal } = given;
  const present = await tenantsList(ops);
  if (present.length > 0 && !present.some((tenant) => tenant.sample)) return 0;

  const samples = sampleTenants(today()).filter(
    (sample) => !present.some((tenant) => tenant.tenant === sample.name && tenant.imported),
  );
  if (samples.length === 0) return 0;
  const directory = join(given.directory, "sample");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  for (const [done, sample] of samples.entries()) {
    signal.throwIfAborted();
    progress.advance("Sample tenants imported", done, samples.length);
    const tenantId =
      present.find((tenant) => tenant.tenant === sample.name)?.tenant_id ??
      (await tenantAdd(
        ops,
        { ...sample, limitUsd: sample.monthlyBudgetUsd, sample: true },
        "sample of the first start",
      ));
    const { path } = await writeSample(sample, directory);
    await importFocus(db, tenantId, { path, source: "sample", signal });
  }
  await rm(directory, { recursive: true });
  progress.advance("Sample tenants imported", samples.length, samples.length);
  return samples.length;
}

/** Bills end where today begins, in UTC. */
function today(): Date {
  const now = new Date();
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()));
}
