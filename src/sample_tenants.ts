// The first start: five tenants with 120 days of generated bills, imported as any other file is.
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Db } from "./db.ts";
import { importFocus } from "./imports.ts";
import type { Log } from "./log.ts";
import type { Progress } from "./progress.ts";
import type { Ops } from "./report.ts";
import { type SampleTenant, sampleTenants, writeSample } from "./sample.ts";
import { tenantAdd, tenantsList } from "./tenants.ts";

/**
 * Makes what is missing of the sample, when the database has no tenant or has sample tenants: a first start
 * that was killed half-way is finished by the next one. Answers how many bills it imported.
 */
export async function addSampleTenants(given: {
  db: Db;
  ops: Ops;
  directory: string;
  progress: Progress;
  signal: AbortSignal;
  log?: Log;
}): Promise<number> {
  const { ops } = given;
  const directory = join(given.directory, "sample");
  await rm(directory, { recursive: true, force: true }); // of a start that was killed
  const present = await tenantsList(ops);
  if (present.length > 0 && !present.some((tenant) => tenant.sample)) return 0;

  const missing = sampleTenants(today()).filter(
    (sample) => !present.some((tenant) => tenant.tenant === sample.name && tenant.imported),
  );
  if (missing.length === 0) return 0;
  await mkdir(directory, { recursive: true, mode: 0o700 });
  try {
    for (const [done, sample] of missing.entries()) {
      given.progress.advance("Sample tenants imported", done, missing.length);
      const known = present.find((tenant) => tenant.tenant === sample.name)?.tenant_id;
      await addSample(given, sample, known, directory);
    }
  } finally {
    await rm(directory, { recursive: true });
  }
  given.progress.advance("Sample tenants imported", missing.length, missing.length);
  return missing.length;
}

async function addSample(
  { db, ops, signal, log }: { db: Db; ops: Ops; signal: AbortSignal; log?: Log },
  sample: SampleTenant,
  known: string | undefined,
  directory: string,
): Promise<void> {
  signal.throwIfAborted();
  const tenant = { ...sample, limitUsd: sample.monthlyBudgetUsd, sample: true };
  const tenantId = known ?? (await tenantAdd(ops, tenant, "sample of the first start"));
  const { path } = await writeSample(sample, directory);
  await importFocus(db, tenantId, { path, source: "sample", signal, log });
}

/** Bills end where today begins, in UTC. */
function today(): Date {
  const now = new Date();
  return new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()));
}
