// Tenants, as the people and the first start make them.
import { z } from "zod";
import { systemCall } from "./db.ts";
import { AppError } from "./errors.ts";
import type { Ops } from "./report.ts";

const Id = z.object({ tenant_id: z.uuid() });

/** What a tenant is made with; the budget is US dollars a month, as text. */
export type NewTenant = { name: string; tier: string; timeZone: string; limitUsd: string; sample: boolean };

/** Makes a tenant with its budget. Throws `tenant_name_taken`, `tenant_invalid`, `argument_invalid`. */
export async function tenantAdd(ops: Ops, tenant: NewTenant, reason: string): Promise<string> {
  const [made] = await systemCall(
    ops,
    `select tenant_id from ops.tenant_add(
       name => $1, reason => $2, limit_usd => $3, tier => $4, time_zone => $5, sample => $6)`,
    [tenant.name, reason, tenant.limitUsd, tenant.tier, tenant.timeZone, tenant.sample],
    Id,
  );
  return made!.tenant_id;
}

/** The tenant of that name. Throws `tenant_not_found`. */
export async function tenantFind(ops: Ops, name: string): Promise<string> {
  const [found] = await systemCall(ops, "select app.tenant_find($1) as tenant_id", [name], Id);
  return found!.tenant_id;
}

/** The tenant of that name, made with a budget of 10 US dollars a month when there is none. */
export async function tenantNamed(ops: Ops, name: string): Promise<string> {
  try {
    return await tenantFind(ops, name);
  } catch (error) {
    if (!(error instanceof AppError && error.code === "tenant_not_found")) throw error;
    const tenant = { name, tier: "ACTIVE", timeZone: "UTC", limitUsd: "10", sample: false };
    return tenantAdd(ops, tenant, "made by npm start for an import").catch((taken: unknown) => {
      // Someone was quicker.
      if (taken instanceof AppError && taken.code === "tenant_name_taken") return tenantFind(ops, name);
      throw taken;
    });
  }
}

const Listed = z.object({
  tenant: z.string(),
  tenant_id: z.uuid(),
  sample: z.boolean(),
  imported: z.boolean(),
});

/** A tenant, whether the first start made it, and whether it has costs. */
export type Listed = z.infer<typeof Listed>;

/** Every tenant. */
export async function tenantsList(ops: Ops): Promise<Listed[]> {
  return systemCall(
    ops,
    `select t.tenant, t.tenant_id, t.sample,
            exists (select from ops.imports as i
                    where i.tenant = t.tenant and i.status = 'PUBLISHED') as imported
     from ops.tenants as t`,
    [],
    Listed,
  );
}
