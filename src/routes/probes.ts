// What orchestrators and Prometheus ask. None of it needs a token, and none of it names a tenant.
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import { type Db, systemCall } from "../db.ts";
import { AppError, ERRORS } from "../errors.ts";
import type { Metrics } from "../metrics.ts";

/** Whether to send requests here, and what was looked at. */
export type Readiness = { ready: boolean; checks: Record<string, boolean> };

const READY_DEADLINE_MS = 2_000;

/**
 * Ready when the database answers and is migrated: it knows every error code that this program knows.
 * Never throws; what stands in the way is a check that is false.
 */
export async function databaseReadiness(db: Pick<Db, "pool">): Promise<Readiness> {
  const signal = AbortSignal.timeout(READY_DEADLINE_MS);
  try {
    const text = "select sqlstate from app.error_codes";
    const rows = await systemCall(db, text, [], z.object({ sqlstate: z.string() }), { signal });
    const known = new Set(rows.map((row) => row.sqlstate));
    const migrated = Object.values(ERRORS).every(
      (error) => !("sqlstate" in error) || known.has(error.sqlstate),
    );
    return { ready: migrated, checks: { database: true, migrations: migrated } };
  } catch (error) {
    // 42P01 and 3F000: the view or its schema is not there, so the server is.
    const database = ["42P01", "3F000"].includes((error as { code?: string }).code ?? "");
    return { ready: false, checks: { database, migrations: false } };
  }
}

/** `/livez` never asks the database: a database that is away is no reason to kill this process. */
export function probes(
  app: FastifyInstance,
  deps: { metrics: Metrics; ready: () => Promise<Readiness>; isDraining: () => boolean },
): void {
  // Whatever a prober posts, it is not read.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", { parseAs: "buffer" }, (_request, _body, done) => done(null));

  const readyz = async (_request: FastifyRequest, reply: FastifyReply) => {
    const { ready, checks } = await withinDeadline(deps.ready());
    const all = { ...checks, not_draining: !deps.isDraining() };
    if (!ready || deps.isDraining()) throw new AppError("service_unavailable", { detail: { checks: all } });
    return reply.send({ status: "ready", checks: all });
  };
  const metrics = async (_request: FastifyRequest, reply: FastifyReply) =>
    reply.type(deps.metrics.registry.contentType).send(await deps.metrics.registry.metrics());

  app.get("/livez", async () => ({ status: "alive" }));
  app.get("/readyz", readyz);
  app.route({ method: ["GET", "POST"], url: "/health", handler: readyz });
  app.get("/metrics", metrics);
  app.get("/health/metrics", metrics);
}

async function withinDeadline(readiness: Promise<Readiness>): Promise<Readiness> {
  const late = Promise.withResolvers<Readiness>();
  const timer = setTimeout(
    () => late.resolve({ ready: false, checks: { in_time: false } }),
    READY_DEADLINE_MS + 500,
  );
  try {
    return await Promise.race([
      readiness.catch(() => ({ ready: false, checks: { answered: false } })),
      late.promise,
    ]);
  } finally {
    clearTimeout(timer);
  }
}
