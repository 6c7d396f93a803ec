create or replace view ops.metrics as
select m.name, m.labels, m.value
from app.job_metrics() as m
order by m.name, m.labels;

comment on view ops.metrics is
  'What a scrape of a worker shows of the database, for those who scrape with SQL: see app.job_metrics.';

grant select on ops.metrics to holdfast_ops, holdfast_metrics;
