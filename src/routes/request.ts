// What handlers read of a request: who calls, and its parts, parsed.
import { z } from "zod";
import type { Caller } from "../auth.ts";
import { AppError } from "../errors.ts";

/** An id in a path. */
export const Id = z.strictObject({ id: z.uuid() });

/** The headers that a request may name itself with. */
export const Headers = z.object({
  "idempotency-key": z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/)
    .optional(),
});

/** Who calls; throws `unauthorized` where nobody does. */
export function callerOf(caller: Caller | null): Caller {
  if (caller === null) throw new AppError("unauthorized");
  return caller;
}

/** Whose data is asked for; throws `unauthorized` where nobody calls. */
export function tenantOf(caller: Caller | null): string {
  return callerOf(caller).tenantId;
}

/** Parses one side of a request; throws `invalid_request` with every fault and no value. */
export function parse<T>(
  schema: z.ZodType<T>,
  value: unknown,
  side: "body" | "header" | "path" | "query",
): T {
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  const faults = error.issues.map((issue) => `${[side, ...issue.path].join(".")}: ${issue.message}`);
  throw new AppError("invalid_request", {
    message: "The request is not one that this route takes.",
    detail: { faults },
  });
}

/**
 * What `work` answers, or a `TimeoutError` after `timeoutMs`. The work goes on: for what is found again by a retry.
 */
export async function within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new DOMException("The answer took too long.", "TimeoutError"));
  }, timeoutMs);
  return Promise.race([work, late.promise]).finally(() => clearTimeout(timer));
}
