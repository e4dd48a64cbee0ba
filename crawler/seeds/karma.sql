-- From posts to pages: statements that end with a semicolon, the last one gives the seeds.
-- Tables: posts (url, subreddit, author, month, score, age, dump) and pages (number, page, named, address, name): a raw
-- URL, its page and whether it is that page's name, by MD5 numbers. y is log(1 + score).
-- Nothing is counted by `distinct` within a group, aggregated over texts or grouped by millions of them: DuckDB spills
-- groups and joins to disk, but little of such states.

create or replace temp table names as
select subreddit as name, row_number() over () as subreddit
from (select distinct subreddit from posts where list_contains($dumps, dump));

create or replace temp table used as
select page, number, names.subreddit, author, month, score, age, ln(1 + greatest(score, 0)) y,
       score + if(named, 1e12, 0) address_worth,
       case when age < 1/6.0 then 0 when age < 1 then 1 when age < 6 then 2 else 3 end bucket
from posts join pages on md5_number(url) = number join names on posts.subreddit = names.name
where list_contains($dumps, dump) and page is not null;

-- If no score had settled, nothing better is known than they.
update used set age = null where not exists (select 1 from used where age is null);

-- What is usual: the mean, the variance within subreddits and between them (by moments), and how many posts the mean of
-- all counts as beside a subreddit's own (Efron and Morris 1975).
create or replace temp table usual as
with of_each as (
    select count(*) n, avg(y) mean, coalesce(var_samp(y), 0) var from used where age is null group by subreddit
), moments as (
    select sum(n * mean) / sum(n) mu, greatest(sum((n - 1) * var) / greatest(sum(n - 1), 1), 1e-6) within_groups,
           coalesce(var_samp(mean), 0) of_means, avg(1.0 / n) noise
    from of_each
)
select mu, within_groups, within_groups / greatest(of_means - within_groups * noise, 1e-9) k from moments;

create or replace temp table levels as
select subreddit, (n * coalesce(mean, 0) + k * mu) / (n + k) level
from (select subreddit, count(*) filter (age is null) n, avg(y) filter (age is null) mean
      from used group by subreddit), usual;

create or replace temp table months as
select month, subreddit, (n * coalesce(mean, 0) + k * level) / (n + k) level_then
from (select month, subreddit, count(*) filter (age is null) n, avg(y) filter (age is null) mean
      from used group by month, subreddit) join levels using (subreddit), usual;

-- What scores of that age are like: of the subreddit in that month, with ten posts of all of that month among them.
create or replace temp table early as
select month, subreddit, bucket, (sum(y) + 10 * any_value(of_all)) / (count(*) + 10) mean
from (select *, avg(y) over (partition by month, bucket) of_all from used where age is not null)
group by month, subreddit, bucket;

-- The excess of each post over its subreddit's level, and its weight: of an early one the share of a day that it had.
create or replace temp table weighed as
select page, number, address_worth, subreddit, author, score, if(used.age is null, 1, used.age / 24) weight,
       if(used.age is null, y - level, level_then - level + y - early.mean) excess,
       if(used.age is null, score, exp(level_then + used.age / 24 * (y - early.mean)) - 1) votes
from used join levels using (subreddit) join months using (month, subreddit)
     left join early on used.age is not null and early.month = used.month
          and early.subreddit = used.subreddit and early.bucket = used.bucket;

-- Of the variance within subreddits, what posts of one page differ by; the rest is pages'. At most four fifths, so that a
-- single post still says something; half, if fewer than 30 tell.
create or replace temp table spread as
with of_pages as (
    select count(*) n, var_samp(excess) var from weighed where weight = 1 group by page having count(*) > 1
), pooled as (
    select coalesce(sum(n - 1), 0) tell, sum((n - 1) * var) / sum(n - 1) var from of_pages
)
select mu, if(tell >= 30, least(var, 0.8 * within_groups), 0.5 * within_groups) of_posts,
       within_groups - of_posts of_pages
from usual, pooled;

-- Pages that are seeds.
create or replace temp table sums as
select page, count(*) posts, sum(weight) weight, coalesce(sum(weight * excess) / nullif(sum(weight), 0), 0) mean,
       sum(votes) votes, max(score) highest, arg_max(subreddit, score) subreddit, arg_max(number, address_worth) number
from weighed group by page having sum(votes) >= $least;

create or replace temp table variety as
with posters as (select distinct page, subreddit, author from weighed where page in (select page from sums))
select page, subreddits, authors
from (select page, count(*) subreddits from (select distinct page, subreddit from posters) group by page)
join (select page, count(*) authors from (select distinct page, author from posters) group by page) using (page);

-- One join a statement: several large ones, or a sort beside them, hold each other's memory.
create or replace temp table estimates as
select *, weight * of_pages / (weight * of_pages + of_posts) as reliability, mu + reliability * mean as level,
       sqrt(of_pages * (1 - reliability)) as error
from sums join variety using (page), spread;

create or replace temp table told as
select address, pages.name page, round(greatest(posts * (exp(level - error) - 1), 0), 3) as prior, subreddit, reliability,
       posts * (exp(level) - 1) karma, posts * exp(level) * error karma_se, votes, posts, subreddits, authors, highest
from pages join estimates using (number);

create or replace temp table ranked as
select told.* replace (names.name as subreddit) from told join names using (subreddit);

select address, prior, subreddit, reliability, karma, karma_se, votes, posts, subreddits, authors, highest
from ranked order by prior desc, page limit all offset $start;
