"""The PostgreSQL server of the tests."""

import psycopg
import pytest
from postgresql_cluster import ROLE, Cluster, name_of


def test_databases_of_the_cluster(cluster: Cluster) -> None:
    """Each database is its own and goes with its test; its owner is no superuser; text is not ordered by its bytes."""
    with cluster.database() as url:
        name = name_of(url)
        with psycopg.connect(host=str(cluster.folder), user=ROLE, dbname=name) as conn:
            conn.execute("CREATE TABLE mark ()")
            assert conn.execute("SELECT 'a' < 'B', current_setting('is_superuser')").fetchone() == (True, "off")
        with cluster.database() as another:
            assert another != url
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host=str(cluster.folder), user=ROLE, dbname=name)
